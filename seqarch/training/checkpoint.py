"""Checkpoints: a flat {dotted.name: array} dict for the model and one for the rest, by Orbax,
written while training goes on.

    RUN/checkpoints/STEP/model       every parameter                       (what load_model reads)
    RUN/checkpoints/STEP/optimizer   moments, refused steps, the step
    RUN/checkpoints/STEP/record    the step; the config's fields that decide the trajectory; dtype,
                                   shape and digest of each array; and the stream that the step is a
                                   position in: {"seed", "batch", "length", "data"}
    RUN/checkpoints/STEP.damaged     one that was not what had been saved, out of the way

The loader is a pure function of (seed, step), so the step is the whole of the data position.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh
from orbax.checkpoint.checkpoint_managers import LatestN
from orbax.checkpoint.options import AsyncOptions

from seqarch.config import Config, MeshConfig, resolve_model
from seqarch.errors import UserError
from seqarch.model import LanguageModel
from seqarch.runtime.cluster import gather, together
from seqarch.training import restore
from seqarch.training.digest import digests
from seqarch.training.restore import Damaged
from seqarch.training.rundir import deciding_fields, read_config
from seqarch.training.sharding import make_mesh, placed, shardings
from seqarch.training.state import TrainState
from seqarch.types import Array, PyTree

LOOKS = 20  # times that load_model looks for a newer checkpoint where one vanishes as it is read


def named(tree: PyTree) -> dict[str, Array]:
    """The leaves by dotted name, such as model.period.0.mixer.out.kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): leaf
        for path, leaf in leaves
    }


class Checkpointer:
    """Saves and restores train states under `directory`, of which the `keep` newest stay; a context
    manager.

    stream: identifies the data stream; kept with each state, and a state of another stream is
      refused.
    config: the run's fields that decide its trajectory, by dotted name; kept and refused likewise.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        keep: int = 2,
        stream: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ):
        self.directory = Path(directory).absolute()
        self.stream, self.config = dict(stream or {}), dict(config or {})
        # Where threads make the directories and fail, those that write into them wait for minutes.
        directories_first = AsyncOptions(create_directories_asynchronously=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=LatestN(keep),
            cleanup_tmp_directories=True,
            async_options=directories_first,
        )
        arrays = ocp.StandardCheckpointHandler
        handlers = dict(model=arrays(), optimizer=arrays(), record=ocp.JsonCheckpointHandler())
        self._manager = ocp.CheckpointManager(
            self.directory, item_names=tuple(handlers), item_handlers=handlers, options=options
        )

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for what is being written."""
        self.wait()
        self._manager.close()

    def wait(self) -> None:
        """Until what is being written is there; raises what went wrong with it."""
        self._manager.wait_until_finished()

    def check(self) -> None:
        """Raises what went wrong with a save that has ended, which `save` and `wait` would, later;
        doesn't wait.
        """
        if not self._manager.is_saving_in_progress():
            self._manager.wait_until_finished()

    @property
    def steps(self) -> list[int]:
        """The steps that were written whole, ascending; of several processes the first one's view
        holds for all.
        """
        return json.loads(gather(json.dumps(restore.steps(self.directory)))[0])

    def save(self, state: TrainState) -> None:
        """Starts writing `state`; returns when its arrays may be donated."""
        model, rest = _split(state)
        record = restore.make_record(int(state.step), model | rest, self.stream, self.config)
        items = dict(model=ocp.args.StandardSave(model), optimizer=ocp.args.StandardSave(rest))
        args = ocp.args.Composite(**items, record=ocp.args.JsonSave(record))
        self._manager.save(
            int(state.step), args=args, force=True
        )  # without force Orbax may leave a step out, silently

    def restore(
        self, abstract: TrainState, *, strict: bool = False, say: Callable[[str], None] = print
    ) -> TrainState:
        """The latest state that is what was saved, with the shapes, dtypes and shardings of
        `abstract`.

        `say` is told of damaged ones, which are set aside once an older one proves whole. Of
        several processes all
        restore the same step: what one cannot read is damaged for all. Raises UserError where
        `abstract` or the stream differ from what was saved, where nothing whole is left, and, if
        `strict`, at damage.
        """
        damaged = []
        for step in reversed(self.steps):
            try:
                state = self._restore(self.directory / str(step), abstract)
            except Damaged as error:
                if strict:
                    raise UserError(
                        f"{error}; leave out --strict_restore to go on from the one before"
                    ) from error
                say(f"{error}; looking at the one before")
                damaged.append(step)
            else:
                self._set_aside(damaged)
                return state
        if damaged:
            raise UserError(
                f"every checkpoint in {self.directory} is damaged; move it away to train from "
                "the start"
            )
        raise restore.none_in(self.directory)

    def _restore(self, path: Path, abstract: TrainState) -> TrainState:
        model, rest = _split(abstract)

        def read() -> tuple[dict[str, Any], dict[str, Array]]:
            record = restore.read_record(path)
            restore.check_origin(path, record, self.config)
            self._check_stream(path, record)
            restore.check(path, record, model | rest)
            return record, restore.read_arrays(path, model=model, optimizer=rest)

        record, leaves = together(read, Damaged, UserError)
        if len(set(gather(json.dumps(record, sort_keys=True)))) > 1:
            raise Damaged(f"{path} is damaged (not every process finds the same record of digests)")
        found = digests(leaves)
        together(lambda: restore.compare(path, record, found), Damaged)
        return jax.tree.unflatten(
            jax.tree.structure(abstract), [leaves[name] for name in named(abstract)]
        )

    def _check_stream(self, path: Path, record: dict[str, Any]) -> None:
        for name in sorted(self.stream.keys() & record["stream"].keys()):
            if record["stream"][name] != self.stream[name]:
                raise UserError(
                    f"{path} stands in a data stream with {name}={record['stream'][name]!r}, "
                    f"the config asks for {self.stream[name]!r}; use the run's own config, or "
                    "another --workdir"
                )

    def _set_aside(self, steps: list[int]) -> None:
        """Makes room for the steps' new checkpoints; what is there may still be of use to
        somebody.
        """

        def rename() -> None:
            for step in steps if jax.process_index() == 0 else []:
                aside = self.directory / f"{step}.damaged"
                shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
                (self.directory / str(step)).rename(aside)

        if steps:
            together(rename)
            self._manager.reload()


def load_model(
    run_dir: str | os.PathLike, allow_modules: Iterable[str] = (), *, mesh: Mesh | None = None
) -> tuple[Config, LanguageModel, int]:
    """A run's config, as given, and the model of its latest checkpoint, with its step.

    allow_modules: modules and packages of mixers that the run's config may have imported
    mesh: each of its devices reads its part of the parameters; without, this process's first device
    reads them whole A checkpoint that training replaces while it is read is left for its successor.

    Raises UserError where `run_dir` is no run or holds no checkpoint, and where the latest one is
    damaged.
    """
    config = read_config(run_dir, allow_modules)
    resolved = resolve_model(config.model, jax.local_devices()[0])
    abstract = jax.eval_shape(
        lambda key: LanguageModel(resolved, rngs=nnx.Rngs(key)), jax.random.key(0)
    )
    abstract = placed(
        abstract, shardings(abstract, mesh or make_mesh(MeshConfig(), jax.local_devices()[:1]))
    )
    directory = Path(run_dir) / "checkpoints"
    step, leaves = _read_newest(directory, config, named(TrainState(None, abstract, None)))
    return config, jax.tree.unflatten(jax.tree.structure(abstract), list(leaves.values())), step


def _read_newest(
    directory: Path, config: Config, model: dict[str, Array]
) -> tuple[int, dict[str, Array]]:
    """The step and the arrays `model` of the newest checkpoint, even if it changes meanwhile."""
    for left in reversed(range(LOOKS)):
        step = restore.newest(directory)
        path = directory / str(step)
        try:
            record = restore.read_record(path)
            restore.check_origin(path, record, deciding_fields(config))
            restore.check(path, record, model, prefix="model.")
            leaves = restore.read_arrays(path, model=model)
            restore.compare(path, record, digests(leaves))
        except Damaged as error:
            if not left or restore.newest(directory) == step:
                raise UserError(
                    f"{error}; the command that trained it goes on from the one before"
                ) from error
        else:
            return step, leaves


def _split(state: TrainState) -> tuple[dict[str, Array], dict[str, Array]]:
    leaves = named(state)
    model = {name: leaf for name, leaf in leaves.items() if name.startswith("model.")}
    return model, {name: leaf for name, leaf in leaves.items() if name not in model}
