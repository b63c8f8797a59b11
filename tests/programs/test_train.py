"""train.py and the loop: every config runs, and a run that was cut short goes on."""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import seqarch.config
from configs import lm
from seqarch import records
from seqarch.config import Config, parse
from seqarch.costs.programs import train_program
from seqarch.devices import DEVICES, Device
from seqarch.errors import Diverged, Stopped, UserError
from seqarch.flops import count_flops
from seqarch.runs import load_run
from seqarch.runtime import accelerator, cluster
from seqarch.runtime.trackers.tensorboard import HPARAMS_FILE
from seqarch.tasks.text import writer
from seqarch.training import loop, meter, restore, sharding
from seqarch.training.checkpoint import Checkpointer
from seqarch.training.divergence import PATIENCE, is_diverged
from seqarch.training.loading import load_model
from seqarch.training.logging import read_rows
from seqarch.training.state import TrainState
from tests.conftest import CORE
from tests.training.test_restore import flip, largest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    source = Path(argparse.__file__).read_bytes()
    documents = [("train", "a", source[:40000]), ("train", "b", source[40000:60000])]
    documents += [("validation", "c", source[60000:70000]), ("test", "d", source[70000:80000])]
    directory = tmp_path_factory.mktemp("data") / "corpus"
    writer.write(directory, documents, {"name": "argparse"}, replace=False)
    return directory


def config(corpus: Path, mixer: str = "gru", **fields) -> Config:
    given = lm.get_config(mixer)
    given.update(steps=6, batch=4, length=16, log_every=2)
    given.data.path = str(corpus)
    given.model.update(dim=16, mlp=16, layers=len(mixer.split(",")))
    given.checkpoint.every = given.eval.every = 3
    given.update(fields)
    return parse(given)


OPTIONS = dict(
    model=dict(dtype="bfloat16", remat=True, dropout=0.1), optim=dict(accumulate=2, z_loss=1e-4)
)


@pytest.mark.parametrize(("mixer", "options"), [("gru", {}), (",".join(CORE), OPTIONS)])
def test_every_config_runs_two_steps(corpus, tmp_path, monkeypatch, mixer, options):
    """And tells its MFU in bfloat16, on a device whose rate is known."""
    kind = jax.devices()[0].device_kind
    monkeypatch.setitem(DEVICES, "fake", Device("cpu", kind, flops=1e12))
    said = []
    last = loop.train(config(corpus, mixer, steps=2, **options), tmp_path, progress=said.append)
    assert last["step"] == 2 and 0 < last["validation_bits_per_byte"] < 10
    assert last == read_rows(tmp_path)[-1]
    assert "step 2/2" in said[-1]
    record = json.loads((tmp_path / "run.json").read_text())
    assert "method=" in record["mixer"] and record["versions"]["jax"] == jax.__version__
    assert parse(record["config"]) == parse(json.loads((tmp_path / "config.json").read_text()))
    if not options:
        assert "mfu" not in last
        return
    peak = jax.device_count() * 1e12
    assert last["mfu"] == pytest.approx(last["model_flops_per_s"] / peak, rel=1e-12)


def test_run_json_holds_the_flops_of_a_step_once(corpus, tmp_path):
    given = config(corpus, steps=2)
    last = loop.train(given, tmp_path, progress=lambda line: None)
    model = meter.step_flops(given)
    program = train_program(given, sharding.make_mesh(given.mesh))
    hardware = count_flops(program.fn, *program.args).total
    record = json.loads((tmp_path / "run.json").read_text())
    flops = dict(model=model, hardware=hardware, uncounted_loops=0)
    assert record["flops_per_step"] == flops and hardware != model
    assert "mfu" not in last  # of a CPU no rate is known


def test_a_trained_run_takes_what_its_config_may_change(corpus, tmp_path):
    given = config(corpus, steps=2)
    loop.train(given, tmp_path, progress=lambda line: None)
    other = dataclasses.replace(given, eval=dataclasses.replace(given.eval, limit=77))
    loop.train(other, tmp_path, progress=lambda line: None)
    assert parse(json.loads((tmp_path / "config.json").read_text())) == other
    assert not json.loads((tmp_path / "run.json").read_text())["continued"]


def test_a_run_that_is_cut_down_to_its_checkpoint_says_what_its_schedule_was(corpus, tmp_path):
    """And that rows of its log are gone."""
    given = config(corpus, steps=6)  # with checkpoints at 3 and 6
    loop.train(given, tmp_path, progress=lambda line: None)
    shutil.rmtree(tmp_path / "checkpoints/6")
    (tmp_path / "metrics.jsonl").unlink()
    said = []
    loop.train(dataclasses.replace(given, steps=3), tmp_path, progress=said.append)
    text = "\n".join(said)
    assert "is trained: 3 steps" in text and "has no rows of steps 1-3" in text
    assert "steps 6 -> 3; its learning rates were those of a run of 6 steps" in text
    (again,) = json.loads((tmp_path / "run.json").read_text())["continued"]
    assert again["config"]["steps"] == 3 and again["step"] == 3


def test_a_stop_while_the_step_is_compiled_is_answered_before_the_first_step(
    corpus, tmp_path, monkeypatch
):
    @contextlib.contextmanager
    def interrupted(_, what):
        os.kill(os.getpid(), signal.SIGINT)
        yield

    monkeypatch.setattr(loop.Progress, "compiling", interrupted)
    with pytest.raises(Stopped, match="stopped before step 1; the same command goes on"):
        loop.train(config(corpus, steps=2), tmp_path, progress=lambda line: None)
    assert not read_rows(tmp_path)
    monkeypatch.undo()
    last = loop.train(config(corpus, steps=2), tmp_path, progress=lambda line: None)
    assert last["step"] == 2


def test_a_run_may_go_on_with_other_trackers(corpus, tmp_path):
    given = config(corpus, steps=2, trackers=())
    loop.train(given, tmp_path, progress=lambda line: None)
    assert not list(tmp_path.glob("events.*")) and len(read_rows(tmp_path)) == 2
    given = dataclasses.replace(given, steps=3, trackers=("tensorboard",))
    loop.train(given, tmp_path, progress=lambda line: None)
    assert list(tmp_path.glob("events.*")) and len(read_rows(tmp_path)) == 3


def test_an_extended_run_tells_its_learning_rate_and_describes_itself_anew(corpus, tmp_path):
    optimizer, said = dict(lr=1e-3, warmup=0, final_lr=0.5), []
    for steps in (3, 5):
        given = config(corpus, steps=steps, optim=optimizer)
        loop.train(given, tmp_path, progress=said.append)
        loop.train(given, tmp_path, progress=lambda line: None)
    new = 1e-3 * (0.5 + 0.25 * (1 + math.cos(math.pi * 3 / 4)))
    (line,) = [line for line in said if "learning rate" in line]
    assert "steps 3 -> 5" in line and f"step 4 is {new:.3g}, it would have been 0.0005" in line
    assert read_rows(tmp_path)[3]["learning_rate"] == pytest.approx(new)
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    texts = [event.tensor_proto.string_val[0] for event in events.Tensors("config/text_summary")]
    assert [b'"steps": 5' in text for text in texts] == [False, True]
    content = (tmp_path / HPARAMS_FILE).read_bytes()
    assert content.count(b"_hparams_/session_start_info") == 1
    assert b"_hparams_/session_end_info" in content


def test_what_was_measured_of_another_step_is_not_the_runs(corpus, tmp_path):
    loop.train(config(corpus, steps=2), tmp_path, progress=lambda line: None)
    assert load_run(tmp_path).results is None
    for step in (2, 1):
        results = records.Results(records.Source("run", "run", step=step), ())
        records.write(tmp_path / records.NAME, [results])
        assert load_run(tmp_path).results == (results if step == 2 else None)


def test_a_start_with_the_same_config_describes_nothing_anew(corpus, tmp_path):
    given = config(corpus, steps=4)
    loop.train(given, tmp_path, progress=lambda line: None)
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    said = []
    loop.train(given, tmp_path, progress=said.append)
    assert not [line for line in said if "warning" in line]
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    assert len(events.Tensors("config/text_summary")) == 1


class Killed(Exception):
    pass


def test_a_run_cut_short_goes_on_to_where_the_whole_one_ends(corpus, tmp_path, monkeypatch):
    """Cut after step 6, three steps beyond the last checkpoint, when all of them are logged."""
    whole, short = tmp_path / "whole", tmp_path / "short"
    loop.train(config(corpus), whole, progress=lambda line: None)
    save = Checkpointer.save

    def save_or_die(checkpoints: Checkpointer, state: TrainState) -> None:
        if int(state.step) == 6:
            raise Killed
        save(checkpoints, state)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpointer, "save", save_or_die)
        loop.train(config(corpus), short, progress=lambda line: None)
    assert [row["step"] for row in read_rows(short)] == [1, 2, 3, 4, 5, 6]
    assert {path.name for path in (short / "checkpoints").iterdir()} == {"3"}
    said = []
    loop.train(config(corpus), short, progress=said.append)
    assert any("going on from step 3 of 6" in line for line in said)
    assert [row["step"] for row in read_rows(short)] == [1, 2, 3, 4, 5, 6]
    assert [row["loss"] for row in read_rows(short)] == [row["loss"] for row in read_rows(whole)]
    jax.tree.map(np.testing.assert_array_equal, load_model(short)[1], load_model(whole)[1])
    assert [
        start["step"] for start in json.loads((short / "run.json").read_text())["continued"]
    ] == [3]

    said.clear()
    again = loop.train(config(corpus), short, progress=said.append)
    assert again == read_rows(short)[-1] and "is trained" in said[-1]
    with pytest.raises(UserError, match="6 steps behind it, more than steps=5"):
        loop.train(config(corpus, steps=5), short, progress=said.append)
    with pytest.raises(UserError, match="batch=4, the config has 8"):
        loop.train(config(corpus, batch=8), short, progress=said.append)
    assert json.loads((short / "config.json").read_text()) == seqarch.config.to_dict(config(corpus))


def test_ten_steps_that_are_not_finite_end_the_run(corpus, tmp_path):
    given = config(corpus, steps=30, optim=dict(lr=1e38, warmup=0))
    with pytest.raises(UserError, match="not finite.*lower optim.lr"):
        loop.train(given, tmp_path, progress=lambda line: None)
    rows = read_rows(tmp_path)
    assert rows[-1]["refused"] == PATIENCE
    assert len(rows) < 20


@pytest.mark.parametrize(
    ("steps", "refused", "ends"),
    [(1, 1, True), (2, 1, True), (6, 0, False), (6, 1, False), (6, 2, True), (6, 5, True)],
)
def test_a_run_does_not_end_as_trained_on_refused_steps(steps, refused, ends):
    assert is_diverged(dict(step=steps, refused=refused), steps) == ends
    assert not is_diverged(dict(step=steps, refused=refused), steps + 1)


def test_a_short_run_that_diverges_does_not_end_as_trained(corpus, tmp_path):
    given = config(corpus, steps=4, checkpoint=dict(every=0), optim=dict(lr=1e30))
    with pytest.raises(Diverged, match="3 steps in a row up to step 4 had"):
        loop.train(given, tmp_path, progress=lambda line: None)
    assert restore.steps(tmp_path / "checkpoints") == []


def test_the_command_trains_ctrl_c_saves_and_the_same_command_goes_on(corpus, tmp_path, run_here):
    """It is a process that Ctrl-C ends."""
    run = tmp_path / "run"
    given = [
        f"--config={ROOT}/configs/lm.py:gru",
        f"--workdir={run}",
    ]
    given += [
        f"--config.data.path={corpus}",
        "--config.batch=4",
        "--config.length=16",
        "--config.optim.lr=1e-3",
    ]
    given += [
        "--config.model.dim=16",
        "--config.model.mlp=0",
        "--config.profile=1",
        "--config.log_every=1",
    ]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    command = [sys.executable, str(ROOT / "train.py"), *given, "--config.steps=1000000"]
    with subprocess.Popen(command, **pipes) as process:
        while not (run.exists() and read_rows(run)) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stderr = process.communicate(timeout=240)[1]
    (step,) = restore.steps(run / "checkpoints")
    assert process.returncode == 130
    assert (
        stderr == f"stopped at step {step} of 1000000, which is saved; the same command goes on\n"
    )
    assert [row["step"] for row in read_rows(run)] == list(range(1, step + 1))

    given += [f"--config.steps={step + 1}"]
    done = run_here("train.py", *given)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        f"going on from step {step} of" in done.stdout
        and f"step {step + 1}/{step + 1}" in done.stdout
    )
    assert [row["step"] for row in read_rows(run)] == list(range(1, step + 2))
    assert seqarch.config.parse(json.loads((run / "config.json").read_text())).optim.lr == 1e-3
    assert list(run.rglob("*.xplane.pb"))

    flip(largest(run / "checkpoints" / str(step + 1)))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = run_here("train.py", *given, "--strict_restore")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert re.match(
        rf"error: .*/{step + 1} is damaged \(.*\); leave out --strict_restore", done.stderr
    ), done.stderr
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, None),
        ({"dev/nvidiactl": ""}, "cuda"),
        (
            {
                "sys/bus/pci/devices/0/vendor": "0x1ae0\n",
                "sys/bus/pci/devices/0/device": "0x0063\n",
            },
            "tpu",
        ),
        (
            {
                "sys/bus/pci/devices/0/vendor": "0x1ae0\n",
                "sys/bus/pci/devices/0/device": "0x0042\n",
            },
            None,
        ),
    ],
)
def test_accelerators_are_seen_without_their_drivers(tmp_path, files, found):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert accelerator.accelerator(tmp_path) == found


def test_an_accelerator_is_not_left_idle_silently(monkeypatch):
    monkeypatch.setattr(accelerator, "accelerator", lambda: "cuda")
    accelerator.check_accelerator()
    chosen = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", None)
        with pytest.raises(UserError, match="CUDA.*requirements-cuda.txt.*JAX_PLATFORMS=cpu"):
            accelerator.check_accelerator()
    finally:
        jax.config.update("jax_platforms", chosen)


def test_a_cluster_is_joined_where_the_environment_names_one(monkeypatch):
    calls = []
    initialize = lambda *cluster, heartbeat_timeout_seconds: calls.append(cluster)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(
        cluster.peers, "filter_native_stderr", lambda: None
    )  # of the tests' own process
    cluster.join_cluster()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    cluster.join_cluster()
    assert calls == []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    cluster.join_cluster()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1")
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES"):
        cluster.join_cluster()
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    cluster.join_cluster()
    assert calls == [(), ("host:1", 2, 1)]
