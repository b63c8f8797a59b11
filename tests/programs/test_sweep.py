"""A sweep through its program: what is finished stays, whatever is killed; what diverges counts."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqarch import records
from seqarch.config import parse
from seqarch.files import read_json
from seqarch.provenance import cpus
from seqarch.report.collect import collect
from seqarch.report.notices import notices
from seqarch.report.run_files import SWEPT
from seqarch.sweep import hyper
from seqarch.sweep.plan import PlannedRun, plan
from seqarch.sweep.work import DIVERGED, DONE, find_end
from seqarch.training.logging import find_faults, read_rows

ROOT = Path(__file__).parents[2]
WAIT = 240
STEPS = 120
RATES = (1e-3, 2e-3, 3e-3, 4e-3, 1e30)

CONFIG = f"""
from configs import probes

def get_config():
    config = probes.get_config("mqar(pairs=2,length=16,vocab=16),gru")
    config.steps = {STEPS}
    config.batch = 4
    config.log_every = 1
    config.model.layers = 1
    config.model.dim = 8
    config.checkpoint.every = 10
    config.eval.every = 0
    config.eval.batch = 4
    config.evals = dict(accuracy=dict(rows=8))
    return config

def get_hyper(h):
    return h.sweep("optim.lr", RATES)
"""


def until(condition, what: str) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def arguments(directory: Path) -> list[str]:
    """Returns the arguments of a sweep over learning rates in directory/runs."""
    (directory / "tiny.py").write_text(f"{CONFIG}\nRATES = {RATES}\n")
    return [f"--config={directory}/tiny.py", f"--workdir={directory}/runs"]


def start(directory: Path) -> subprocess.Popen:
    """Starts the sweep."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/sweep.py"), *arguments(directory)],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(program: subprocess.Popen, code: int = 0) -> str:
    stdout, stderr = program.communicate(timeout=WAIT)
    assert program.returncode == code, stdout + stderr
    return stdout if code == 0 else stderr


def planned(directory: Path) -> list[PlannedRun]:
    """Returns the runs of the sweep that `start` starts."""
    namespace: dict = dict(RATES=RATES)
    exec(CONFIG, namespace)
    base, sweep = parse(namespace["get_config"]()), namespace["get_hyper"](hyper)
    return plan(base, sweep, directory / "runs", "validation")


def workers(program: subprocess.Popen) -> list[int]:
    listed = subprocess.run(
        ["pgrep", "-P", str(program.pid), "-f", "spawn_main"], capture_output=True, text=True
    )
    return [int(line) for line in listed.stdout.split()]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or cpus() < 2, reason="no cores to share")
def test_a_sweep_goes_on_whatever_was_killed_and_runs_nothing_twice(tmp_path, run_here):
    runs = planned(tmp_path)
    started = [start(tmp_path)]
    try:
        until(lambda: any(map(find_end, runs)), "no run ended")
        os.kill(started[0].pid, signal.SIGKILL)
        first = next(run for run in runs if find_end(run))
        before = (first.directory / records.NAME).stat().st_mtime_ns

        started.append(start(tmp_path))
        left = [run for run in runs if not find_end(run)]
        until(lambda: len(workers(started[1])) == 2, "there are no workers")
        rows = {run.name: len(read_rows(run.directory)) for run in left}
        until(
            lambda: any(len(read_rows(run.directory)) > rows[run.name] + 20 for run in left),
            "no run went on",
        )
        os.kill(workers(started[1])[0], signal.SIGKILL)
        said = finish(started[1])
    finally:
        for program in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.communicate()
    again = run_here("scripts/sweep.py", *arguments(tmp_path), cwd=tmp_path).stdout
    assert re.search(r"\b[1-4] finished", said), said
    assert said.count("its process was killed; another one goes on with it") == 1, said
    assert "4 of 5 runs are done, 1 diverged" in said and "all of them are finished" in again
    assert (first.directory / records.NAME).stat().st_mtime_ns == before
    assert [find_end(run).status for run in runs] == [*[DONE] * 4, DIVERGED]
    assert not any(find_faults(run.directory, STEPS) for run in runs[:4])
    assert read_json(runs[-1].directory / SWEPT)["fields"] == {"optim.lr": RATES[-1]}

    found = collect([run.directory for run in runs])
    assert notices(found) == ["1 of 5 runs diverged; fit rates count them, and means do not"]
    assert found.models[0].name == "gru, lr 0.001"
