"""Sweeps on SLURM, by submitit and commands of a fake SLURM on this machine."""

import os
import signal
import sys
from pathlib import Path

import pytest

from seqarch.errors import UserError
from seqarch.files import read_json
from seqarch.sweep import slurm
from seqarch.sweep.work import DIVERGED, DONE, find_end
from seqarch.training.logging import find_faults, read_rows
from tests.programs.test_sweep import STEPS, finish, planned, start, until


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """A PATH with the commands of SLURM, and their directory."""
    pytest.importorskip("submitit")
    commands, state = tmp_path / "bin", tmp_path / "slurm"
    commands.mkdir()
    state.mkdir()
    source = Path(__file__).with_name("fake_slurm.py").read_text()
    for name in ("sbatch", "srun", "sacct", "scontrol"):
        (commands / name).write_text(f"#!{sys.executable}\n{source}")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(state))
    return state


def test_submitit_that_is_missing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="pip install -r requirements-slurm.txt"):
        slurm.make_executor(tmp_path, "")


def test_options_are_read():
    assert slurm.read_options("partition=gpu time=240") == dict(partition="gpu", time=240)
    with pytest.raises(UserError, match="cannot read 'time'"):
        slurm.read_options("time")


def test_unknown_options_and_a_machine_without_slurm_are_told(tmp_path, fake, monkeypatch):
    assert slurm.make_executor(tmp_path, "time=5").parameters["time"] == 5
    with pytest.raises(UserError, match="did you mean 'partition'"):
        slurm.make_executor(tmp_path, "parition=gpu")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="login node"):
        slurm.make_executor(tmp_path, "")


@pytest.mark.slow
def test_an_array_of_jobs_goes_on_after_preemption_and_is_submitted_once(tmp_path, fake):
    """One job is preempted while it trains; the program that watches is killed, and watches on."""
    rates = (1e-3, 1e30)
    runs = planned(tmp_path, rates)
    arguments = ["--cluster=slurm", "--config.checkpoint.every=0"]
    watching = start(tmp_path, *arguments, rates=rates)
    until(lambda: len(read_rows(runs[0].directory)) > 15, "no job trains")
    os.kill(watching.pid, signal.SIGKILL)
    os.kill(int((fake / "1_0.pid").read_text()), signal.SIGUSR2)
    until((fake / "1_0.requeued").exists, "the job was not queued again")
    said = finish(start(tmp_path, *arguments, rates=rates))
    watching.communicate()
    assert "in SLURM's queue already" in said and "submitted" not in said, said
    assert [find_end(run).status for run in runs] == [DONE, DIVERGED]
    assert not find_faults(runs[0].directory, STEPS)
    starts = [each["step"] for each in read_json(runs[0].directory / "run.json")["continued"]]
    assert len(starts) == 1 and starts[0] > 15, "it did not save when it was preempted"
    assert len(list(fake.glob("*.sbatch"))) == 1 and (fake / "requeue").read_text() == "True"
