"""Checkpoints, which Orbax writes while training continues.

    RUN/checkpoints/STEP/model       every parameter, as {dotted.name: array}
    RUN/checkpoints/STEP/optimizer   likewise moments, refused steps, the step
    RUN/checkpoints/STEP/record      the step; the config's fields that decide the trajectory;
                                     dtype, shape and digest of each array; and the data stream:
                                     {"seed", "batch", "length", "data"}
    RUN/checkpoints/STEP.damaged     a checkpoint that differs from what was saved

Batches are a pure function of (seed, step), so the step is the whole position in the data.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import LatestN
from orbax.checkpoint.options import AsyncOptions

from seqarch.errors import UserError
from seqarch.runtime.cluster import gather, together
from seqarch.runtime.progress import Say
from seqarch.training import restore
from seqarch.training.digest import digests
from seqarch.training.restore import Damaged
from seqarch.training.state import TrainState
from seqarch.types import Array, PyTree


def named(tree: PyTree) -> dict[str, Array]:
    """Returns the leaves of a tree by dotted name, such as model.period.0.mixer.out.kernel."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): leaf
        for path, leaf in leaves
    }


class Checkpointer:
    """Saves and restores train states; a context manager.

    Args:
      directory: of the checkpoints.
      keep: number of the newest checkpoints that are kept.
      stream: identifies the data stream; saved with each state, and a state of another stream is
        refused.
      config: the run's fields that decide its trajectory, by dotted name; saved and compared
        likewise.
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
        # If threads fail to make the directories, threads that write into them wait for minutes.
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
        """Waits for the save in progress and releases Orbax's threads."""
        self.wait()
        self._manager.close()

    def wait(self) -> None:
        """Waits for the save in progress; raises its error."""
        self._manager.wait_until_finished()

    def check(self) -> None:
        """Raises the error of a save that has ended; does not wait for one in progress."""
        if not self._manager.is_saving_in_progress():
            self._manager.wait_until_finished()

    @property
    def steps(self) -> list[int]:
        """The steps with a complete checkpoint, ascending, as process 0 sees them."""
        return json.loads(gather(json.dumps(restore.steps(self.directory)))[0])

    def save(self, state: TrainState) -> None:
        """Starts a save of `state`; returns once its arrays may be donated."""
        model, rest = _split(state)
        record = restore.make_record(int(state.step), model | rest, self.stream, self.config)
        items = dict(model=ocp.args.StandardSave(model), optimizer=ocp.args.StandardSave(rest))
        args = ocp.args.Composite(**items, record=ocp.args.JsonSave(record))
        # Without `force`, Orbax may skip a step silently.
        self._manager.save(int(state.step), args=args, force=True)

    def save_model(self, step: int, model: Mapping[str, Array]) -> None:
        """Starts a save of parameters without an optimizer's state, by their names in a state.

        `load_model` reads it; training does not go on from it.
        """
        record = restore.make_record(step, model, self.stream, self.config)
        items = dict(model=ocp.args.StandardSave(dict(model)), record=ocp.args.JsonSave(record))
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(
        self, abstract: TrainState, *, strict: bool = False, say: Say = print
    ) -> TrainState:
        """Returns the state of the latest undamaged checkpoint.

        Damaged checkpoints are renamed once an older one has been restored. All processes restore
        the same step: a checkpoint that one of them cannot read is damaged for all.

        Args:
          abstract: shapes, dtypes and shardings of the state.
          strict: raise an error at a damaged checkpoint.
          say: is called with a line for each damaged checkpoint.

        Raises:
          UserError: where the arrays, the stream or the config differ from those saved, where no
            undamaged checkpoint is left, and, if `strict`, at a damaged one.
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
            if not any(name.startswith("opt_state.") for name in record["arrays"]):
                raise UserError(
                    f"{path} has imported weights without an optimizer's state, which are not "
                    "trained on; give another --workdir"
                )
            self._check_stream(path, record)
            restore.check(path, record, model | rest)
            return record, restore.read_arrays(path, model=model, optimizer=rest)

        record, leaves = together(read, Damaged, UserError)
        if len(set(gather(json.dumps(record, sort_keys=True)))) > 1:
            raise Damaged(f"{path} is damaged (not every process finds the same record of digests)")
        found = digests(leaves)
        together(lambda: restore.compare(path, record, found), Damaged)
        ordered = [leaves[name] for name in named(abstract)]
        return jax.tree.unflatten(jax.tree.structure(abstract), ordered)

    def _check_stream(self, path: Path, record: dict[str, Any]) -> None:
        for name in sorted(self.stream.keys() & record["stream"].keys()):
            if record["stream"][name] != self.stream[name]:
                raise UserError(
                    f"{path} is of a data stream with {name}={record['stream'][name]!r}, "
                    f"the config asks for {self.stream[name]!r}; use the run's own config, or "
                    "another --workdir"
                )

    def _set_aside(self, steps: list[int]) -> None:
        """Renames the checkpoints of `steps`, whose steps are saved again later."""

        def rename() -> None:
            for step in steps if jax.process_index() == 0 else []:
                aside = self.directory / f"{step}.damaged"
                shutil.rmtree(aside) if aside.is_dir() else aside.unlink(missing_ok=True)
                (self.directory / str(step)).rename(aside)

        if steps:
            together(rename)
            self._manager.reload()


def _split(state: TrainState) -> tuple[dict[str, Array], dict[str, Array]]:
    leaves = named(state)
    model = {name: leaf for name, leaf in leaves.items() if name.startswith("model.")}
    return model, {name: leaf for name, leaf in leaves.items() if name not in model}
