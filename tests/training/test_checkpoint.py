"""Checkpoints: what is saved comes back bit for bit, and what does not fit is refused by name."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqarch.config
from seqarch.config import Config, MeshConfig, ModelConfig, resolve
from seqarch.errors import UserError
from seqarch.training import sharded_step, sharding
from seqarch.training.checkpoint import Checkpointer, named
from seqarch.training.loading import load_model
from seqarch.training.state import TrainState

CONFIG = Config(steps=4, batch=4, length=8, model=ModelConfig(mixer="gru", layers=3, dim=16, mlp=0))
STREAM = dict(seed=0, batch=4, length=8, text="abc")

FAILING_SAVE = """
import shutil, sys
from pathlib import Path
import jax.numpy as jnp
from seqarch.training.checkpoint import Checkpointer
from seqarch.training.state import TrainState

directory = Path(sys.argv[1])
checkpoints = Checkpointer(directory)
shutil.rmtree(directory)
directory.write_text("a file")
try:
    checkpoints.save(TrainState(jnp.int32(1), dict(w=jnp.ones(3)), dict(m=jnp.ones(3))))
    checkpoints.wait()
except OSError:  # of the cleanup or of the save, whichever comes first
    print("refused", flush=True)
"""


@functools.cache
def mesh() -> jax.sharding.Mesh:
    return sharding.make_mesh(MeshConfig(), jax.devices()[:1])


@functools.cache
def initial() -> TrainState:
    return sharded_step.init_state(resolve(CONFIG, mesh()), mesh(), jax.random.key(0))


def abstract(**model) -> TrainState:
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, **model))
    return sharded_step.abstract_state(resolve(config, mesh()), mesh())


def state(step: int) -> TrainState:
    """A state whose every array is of its step."""
    return jax.tree.map(lambda x: x + x.dtype.type(step), initial()._replace(step=jnp.int32(0)))


def save(directory, *steps: int, keep: int = 2) -> None:
    with Checkpointer(directory, keep, STREAM) as checkpoints:
        for step in steps:
            checkpoints.save(state(step))


def test_states_come_back_bit_for_bit_and_the_newest_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"2", "3"}
    with Checkpointer(tmp_path, 2, STREAM) as checkpoints:
        assert checkpoints.steps == [2, 3]
        restored = checkpoints.restore(abstract())
    assert jax.tree.structure(restored) == jax.tree.structure(state(3))
    jax.tree.map(np.testing.assert_array_equal, restored, state(3))
    assert int(restored.step) == 3


def test_names_are_dotted_and_tell_parameters_apart():
    names = named(initial())
    assert {
        "step",
        "model.embedding",
        "opt_state.adam.mu.embedding",
        "opt_state.refused",
    } < names.keys()
    assert len(names) == len(jax.tree.leaves(initial()))


@pytest.mark.slow
def test_a_program_ends_soon_after_a_save_that_could_not_make_its_directory(tmp_path):
    command = [sys.executable, "-c", FAILING_SAVE, tmp_path / "checkpoints"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "refused\n"
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def test_a_directory_half_written_is_neither_seen_nor_kept(tmp_path):
    save(tmp_path, 1)
    partial = tmp_path / "2.orbax-checkpoint-tmp"
    partial.mkdir()
    (partial / "model").write_text("half")
    with Checkpointer(tmp_path, 2, STREAM) as checkpoints:
        assert checkpoints.steps == [1]
        checkpoints.save(
            state(3)
        )  # Orbax removes what is left over meanwhile, and waits for it before it saves
    assert not partial.exists()


def test_a_save_returns_before_it_is_written(tmp_path):
    written, open_gate = threading.Event(), threading.Event()

    def hold(
        event: str, arguments: tuple
    ) -> None:  # an audit hook, which stays; once the gate is open it holds nothing
        if event == "os.rename" and str(tmp_path) in str(arguments[0]):
            open_gate.wait(60)
            written.set()

    sys.addaudithook(hold)
    with Checkpointer(tmp_path, 2, STREAM) as checkpoints:
        checkpoints.save(state(1))
        assert not written.is_set() and checkpoints.steps == []
        open_gate.set()
        checkpoints.wait()
        assert checkpoints.steps == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_save_that_fails_is_noticed_once_it_has_and_takes_no_older_one_along(
    tmp_path, monkeypatch
):
    def fail(*_: object) -> None:
        raise OSError("storage is gone")

    with Checkpointer(tmp_path, 1, STREAM) as checkpoints:
        checkpoints.save(state(1))
        checkpoints.wait()
        checkpoints.check()
        with monkeypatch.context() as patch, pytest.raises(OSError, match="storage is gone"):
            patch.setattr(os, "rename", fail)
            checkpoints.save(state(2))
            until = time.monotonic() + 60
            while time.monotonic() < until:
                checkpoints.check()
                time.sleep(0.01)
        assert checkpoints.steps == [1]
        jax.tree.map(
            np.testing.assert_array_equal, checkpoints.restore(abstract(), strict=True), state(1)
        )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (dict(dim=32), r"model.embedding float32\[257, 16\], the config makes float32\[257, 32\]"),
        (dict(layers=4), r"float32\[3, .*, the config makes float32\[4, "),
        (dict(mlp=8), r"mlp.* no such array, the config makes float32"),
    ],
)
def test_another_model_is_refused_by_the_first_array_that_differs(tmp_path, model, message):
    save(tmp_path, 1)
    with Checkpointer(tmp_path, 2, STREAM) as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.restore(abstract(**model))


def test_another_dtype_is_refused_rather_than_cast(tmp_path):
    save(tmp_path, 1)
    half = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding), abstract().model
    )
    with (
        Checkpointer(tmp_path, 2, STREAM) as checkpoints,
        pytest.raises(UserError, match="the config makes bfloat16"),
    ):
        checkpoints.restore(abstract()._replace(model=half))


def test_a_state_of_another_stream_is_refused(tmp_path):
    save(tmp_path, 1)
    with (
        Checkpointer(tmp_path, 2, STREAM | dict(batch=8)) as checkpoints,
        pytest.raises(UserError, match="batch=4.* 8"),
    ):
        checkpoints.restore(abstract())


def test_a_reader_leaves_what_is_being_written_alone(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(seqarch.config.to_dict(CONFIG)))
    save(tmp_path / "checkpoints", 1)
    partial = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    partial.mkdir()
    assert load_model(tmp_path)[2] == 1 and partial.exists()


def test_load_model_reads_the_latest_model_of_a_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(seqarch.config.to_dict(CONFIG)))
    with pytest.raises(UserError, match="no checkpoint"):
        load_model(tmp_path)
    save(tmp_path / "checkpoints", 1, 2)
    config, model, step = load_model(tmp_path)
    assert config == CONFIG
    assert jax.tree.structure(model) == jax.tree.structure(state(2).model)
    jax.tree.map(np.testing.assert_array_equal, model, state(2).model)
