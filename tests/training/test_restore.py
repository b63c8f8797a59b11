"""Damaged checkpoints: told in one line, never trained on; and digests, which see every bit."""

import errno
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqarch.config
from seqarch.errors import UserError
from seqarch.training import restore
from seqarch.training.checkpoint import Checkpointer
from seqarch.training.digest import digests
from seqarch.training.loading import load_model
from tests.training.test_checkpoint import CONFIG, STREAM, abstract, save, state


def largest(checkpoint: Path, item: str = "model") -> Path:
    """The file that holds the item's arrays."""
    return max(
        (path for path in (checkpoint / item).rglob("*") if path.is_file()),
        key=lambda path: (path.stat().st_size, path),
    )


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def copy_earlier(checkpoint: Path) -> None:
    """What `mv` and `cp -r` of another step's directory leave."""
    shutil.rmtree(checkpoint)
    shutil.copytree(checkpoint.with_name("1"), checkpoint)


def copy_earlier_of_old(checkpoint: Path) -> None:
    """The same of a revision whose records held neither the step nor the config."""
    copy_earlier(checkpoint)
    file = checkpoint / "record" / "metadata"
    record = json.loads(file.read_text())
    kept = {name: record[name] for name in ("arrays", "stream")}
    file.write_text(json.dumps(kept | {"sha256": restore._sha256(kept)}))


DAMAGE = {
    "another step's directory": copy_earlier,
    "another step's directory, of an older revision": copy_earlier_of_old,
    "a flipped bit": lambda checkpoint: flip(largest(checkpoint)),
    "a truncated file": lambda checkpoint: truncate(largest(checkpoint)),
    "a missing file": lambda checkpoint: largest(checkpoint).unlink(),
    "a missing manifest": lambda checkpoint: (checkpoint / "model" / "manifest.ocdbt").unlink(),
    "a missing item": lambda checkpoint: shutil.rmtree(checkpoint / "model"),
    "a missing record": lambda checkpoint: (checkpoint / "record" / "metadata").unlink(),
    "a truncated record": lambda checkpoint: truncate(checkpoint / "record" / "metadata"),
    "a changed record": lambda checkpoint: (checkpoint / "record" / "metadata").write_text(
        (checkpoint / "record" / "metadata")
        .read_text()
        .replace("float32[257, 16]", "float32[257, 32]")
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("run")
    (run / "config.json").write_text(json.dumps(seqarch.config.to_dict(CONFIG)))
    save(run / "checkpoints", 1, 2)
    return run


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(saved, tmp_path, capfd, damage):
    run = shutil.copytree(saved, tmp_path / "run")
    damage(run / "checkpoints" / "2")
    with pytest.raises(UserError, match="checkpoints/2 is damaged"):
        load_model(run)
    with Checkpointer(run / "checkpoints", 2, STREAM) as checkpoints:
        with pytest.raises(UserError, match="checkpoints/2 is damaged.*--strict_restore"):
            checkpoints.restore(abstract(), strict=True)
        said = []
        restored = checkpoints.restore(abstract(), say=said.append)
        jax.tree.map(np.testing.assert_array_equal, restored, state(1))
        assert len(said) == 1 and "checkpoints/2 is damaged" in said[0] and "\n" not in said[0]
        checkpoints.save(state(2))
    jax.tree.map(np.testing.assert_array_equal, load_model(run)[1], state(2).model)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"1", "2", "2.damaged"}
    assert capfd.readouterr() == ("", "")


def test_steps_that_were_swapped_are_neither_read_nor_trained_on(saved, tmp_path):
    run = shutil.copytree(saved, tmp_path / "run")
    save(run / "checkpoints", 3, keep=3)
    for old, new in (("2", "x"), ("3", "2"), ("x", "3")):
        (run / "checkpoints" / old).rename(run / "checkpoints" / new)
    with pytest.raises(UserError, match="checkpoints/3 is damaged .it holds step 2, "):
        load_model(run)
    said = []
    with Checkpointer(run / "checkpoints", 3, STREAM) as checkpoints:
        restored = checkpoints.restore(abstract(), say=said.append)
        jax.tree.map(np.testing.assert_array_equal, restored, state(1))
        checkpoints.save(state(2))
    assert [line.partition("it holds ")[2][:6] for line in said] == ["step 2", "step 3"]
    assert restore.steps(run / "checkpoints") == [1, 2]


def test_a_directory_with_a_name_that_training_does_not_give_is_no_step(saved, tmp_path):
    run = shutil.copytree(saved, tmp_path / "run")
    (run / "checkpoints" / "2").rename(run / "checkpoints" / "02")
    assert restore.steps(run / "checkpoints") == [1]
    with Checkpointer(run / "checkpoints", 2, STREAM) as checkpoints:
        jax.tree.map(np.testing.assert_array_equal, checkpoints.restore(abstract()), state(1))
        checkpoints.save(state(2))
    assert load_model(run)[2] == 2


def test_the_optimizer_s_arrays_are_compared_too(saved, tmp_path):
    run = shutil.copytree(saved, tmp_path / "run")
    flip(largest(run / "checkpoints" / "2", "optimizer/d"))  # where it keeps what is so small
    (run / "checkpoints" / "2.damaged").touch()  # a file stands where the directory will
    with Checkpointer(run / "checkpoints", 2, STREAM) as checkpoints:
        restored = checkpoints.restore(abstract(), say=lambda line: None)
    jax.tree.map(np.testing.assert_array_equal, restored, state(1))


def test_what_cannot_be_read_now_is_not_called_damaged(saved, tmp_path, monkeypatch):
    def reads(path: Path) -> bytes:
        if path.match("2/record/metadata"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    read = Path.read_bytes
    run = shutil.copytree(saved, tmp_path / "run")
    with (
        monkeypatch.context() as patch,
        Checkpointer(run / "checkpoints", 2, STREAM) as checkpoints,
    ):
        patch.setattr(Path, "read_bytes", reads)
        with pytest.raises(
            UserError, match="checkpoints/2 cannot be read: Input/output error; see to that"
        ):
            checkpoints.restore(abstract())
    assert restore.steps(run / "checkpoints") == [1, 2]


def test_arrays_that_cannot_be_read_now_are_not_called_damaged(saved, tmp_path):
    run = shutil.copytree(saved, tmp_path / "run")
    file = largest(run / "checkpoints" / "2")
    file.unlink()
    file.symlink_to("/proc/self/mem")  # whose first page gives EIO
    with (
        Checkpointer(run / "checkpoints", 2, STREAM) as checkpoints,
        pytest.raises(
            UserError, match="checkpoints/2 cannot be read: Input/output error; see to that"
        ),
    ):
        checkpoints.restore(abstract())
    with pytest.raises(UserError, match="checkpoints/2 cannot be read: Input/output error"):
        load_model(run)
    assert restore.steps(run / "checkpoints") == [1, 2]


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_left_for_its_successor(
    saved, tmp_path, monkeypatch
):
    def read(path: Path, **items: dict) -> dict:
        if path.name == "1":  # as rotation does
            (run / "checkpoints" / "later").rename(path.with_name("2"))
            shutil.rmtree(path)
        return read_arrays(path, **items)

    read_arrays = restore.read_arrays
    run = shutil.copytree(saved, tmp_path / "run")
    (run / "checkpoints" / "2").rename(run / "checkpoints" / "later")
    monkeypatch.setattr(restore, "read_arrays", read)
    assert load_model(run)[2] == 2


def test_a_checkpoint_of_another_run_is_refused(saved, tmp_path):
    run = shutil.copytree(saved, tmp_path / "run")
    other = {"seed.model": 7}
    shutil.rmtree(run / "checkpoints")
    with Checkpointer(run / "checkpoints", 2, STREAM, other) as checkpoints:
        checkpoints.save(state(2))
    with pytest.raises(
        UserError, match="checkpoints/2 is of a run with seed.model=7, the config has 0"
    ):
        load_model(run)
    with (
        Checkpointer(run / "checkpoints", 2, STREAM, {"seed.model": 0}) as checkpoints,
        pytest.raises(UserError, match="is of a run with seed.model=7, the config has 0"),
    ):
        checkpoints.restore(abstract())


def test_where_nothing_whole_is_left_training_does_not_start_anew(saved, tmp_path):
    run = shutil.copytree(saved, tmp_path / "run")
    for step in restore.steps(run / "checkpoints"):
        flip(largest(run / "checkpoints" / str(step)))
    with (
        Checkpointer(run / "checkpoints", 2, STREAM) as checkpoints,
        pytest.raises(UserError, match="every checkpoint in .* is damaged"),
    ):
        checkpoints.restore(abstract(), say=lambda line: None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
def test_a_digest_sees_each_bit_and_its_place(dtype):
    array = jnp.asarray(np.random.default_rng(0).integers(0, 2, (2, 3, 4))).astype(dtype)
    changed = [array.at[1, 2, 3].set(array[1, 2, 3] == 0), array[::-1], array[:, :, ::-1]]
    changed += [jnp.swapaxes(array, 1, 2), jnp.zeros_like(array)]
    found = [digests({"": each})[""] for each in (array, *changed)]
    assert len(set(found)) == len(found)
    assert digests({"": jnp.array(np.asarray(array))})[""] == found[0]


def test_a_digest_sees_the_sign_of_zero():
    assert digests({"": jnp.float32(0)}) != digests({"": jnp.float32(-0.0)})
