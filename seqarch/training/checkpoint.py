"""Checkpoints: a flat {dotted.name: array} dict for the model and one for the rest, by Orbax, written while training goes on.

    RUN/checkpoints/STEP/model       every parameter                       (what load_model reads)
    RUN/checkpoints/STEP/optimizer   moments, refused steps, the step
    RUN/checkpoints/STEP/data        the stream that the step is a position in: {"seed", "batch", "length", "text"}

The loader is a pure function of (seed, step), so the step is the whole of the data position.
"""

import os
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint.checkpoint_managers import LatestN

from seqarch.config import Config, with_forms
from seqarch.errors import UserError
from seqarch.model import LanguageModel
from seqarch.training.rundir import read_config
from seqarch.training.state import TrainState
from seqarch.types import Array, PyTree


def named(tree: PyTree) -> dict[str, Array]:
    """The leaves by dotted name, such as model.period.0.mixer.out.kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): leaf for path, leaf in leaves}


class Checkpointer:
    """Saves and restores train states under `directory`, of which the `keep` newest stay; a context manager.

    stream: identifies the data stream; kept with each state, and a state of another stream is refused.
    read_only: for whoever looks at a run that may still be training: nothing is written, and what is half written stays.
    """

    def __init__(
        self, directory: str | os.PathLike, keep: int = 2, stream: dict[str, Any] | None = None, *, read_only: bool = False
    ):
        self.directory = Path(directory).absolute()
        self.stream = stream or {}
        options = ocp.CheckpointManagerOptions(
            preservation_policy=LatestN(keep), cleanup_tmp_directories=not read_only, read_only=read_only
        )
        arrays = ocp.StandardCheckpointHandler
        handlers = dict(model=arrays(), optimizer=arrays(), data=ocp.JsonCheckpointHandler())
        self._manager = ocp.CheckpointManager(self.directory, item_names=tuple(handlers), item_handlers=handlers, options=options)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The newest step that was written whole; None where there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Starts writing `state`; returns when its arrays may be donated."""
        model, rest = _split(state)
        items = dict(model=ocp.args.StandardSave(model), optimizer=ocp.args.StandardSave(rest))
        self._manager.save(int(state.step), args=ocp.args.Composite(**items, data=ocp.args.JsonSave(self.stream)))

    def restore(self, abstract: TrainState) -> TrainState:
        """The latest state, with the shapes, dtypes and shardings of `abstract`; raises UserError where they differ."""
        step = self._newest()
        saved = self._manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore())).data
        for name in sorted(self.stream.keys() & saved.keys()):
            if saved[name] != self.stream[name]:
                raise UserError(
                    f"{self.directory}/{step} stands in a data stream with {name}={saved[name]!r}, "
                    f"the config asks for {self.stream[name]!r}; use the run's own config, or another --workdir"
                )
        model, rest = _split(abstract)
        leaves = self._restore(step, model=model, optimizer=rest)
        return jax.tree.unflatten(jax.tree.structure(abstract), [leaves[name] for name in named(abstract)])

    def restore_model(self, abstract: LanguageModel) -> tuple[LanguageModel, int]:
        """The latest state's model alone, and its step."""
        step = self._newest()
        leaves = self._restore(step, model=_split(TrainState(None, abstract, None))[0])
        return jax.tree.unflatten(jax.tree.structure(abstract), list(leaves.values())), step

    def _newest(self) -> int:
        if self.latest is None:
            raise UserError(f"no checkpoint in {self.directory}; train first, or look at --workdir")
        return self.latest

    def _restore(self, step: int, **items: dict[str, jax.ShapeDtypeStruct]) -> dict[str, Array]:
        """The items' arrays by name, in their order. Orbax casts silently where dtypes differ, so it is not asked to."""
        metadata = self._manager.item_metadata(step)
        for item, wanted in items.items():
            _check(f"{self.directory}/{step}", dict(metadata[item]), wanted)
        args = {item: ocp.args.StandardRestore(wanted) for item, wanted in items.items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**args))
        return {name: restored[item][name] for item, wanted in items.items() for name in wanted}


def load_model(run_dir: str | os.PathLike) -> tuple[Config, LanguageModel, int]:
    """A run's config, as given, and the model of its latest checkpoint, on this process's first device, with its step.

    Raises UserError where `run_dir` is no run or holds no checkpoint.
    """
    config = read_config(run_dir)
    resolved = with_forms(config.model, jax.default_backend())
    abstract = jax.eval_shape(lambda key: LanguageModel(resolved, rngs=nnx.Rngs(key)), jax.random.key(0))
    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), abstract)
    directory = Path(run_dir) / "checkpoints"
    if not directory.is_dir():
        raise UserError(f"no checkpoint in {directory}; train first, or look at --workdir")
    with Checkpointer(directory, read_only=True) as checkpointer:
        return config, *checkpointer.restore_model(abstract)


def _split(state: TrainState) -> tuple[dict[str, Array], dict[str, Array]]:
    leaves = named(state)
    model = {name: leaf for name, leaf in leaves.items() if name.startswith("model.")}
    return model, {name: leaf for name, leaf in leaves.items() if name not in model}


def _check(where: str, saved: dict[str, Any], wanted: dict[str, jax.ShapeDtypeStruct]) -> None:
    """Raises UserError at the first array, by name, that differs between the checkpoint and the config's state."""
    show = lambda array: f"{array.dtype}{list(array.shape)}" if array is not None else "no such array"  # noqa: E731
    for name in sorted(saved.keys() | wanted.keys()):
        old, new = (show(arrays.get(name)) for arrays in (saved, wanted))
        if old != new:
            raise UserError(f"{where} has for {name} {old}, the config makes {new}; use the config it was trained with")
