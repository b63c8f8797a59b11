"""A run as it is trained, alone or beside others: its directory, its state, and its log."""

import contextlib
import dataclasses
import os

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from seqarch import provenance
from seqarch.config import Config, flatten, recorded_forms, resolve, to_dict
from seqarch.errors import Diverged, UserError
from seqarch.runtime.cluster import together
from seqarch.runtime.progress import Say
from seqarch.tasks import make_task
from seqarch.tasks.base import Task
from seqarch.training import optim, rundir, sharded_step, storage
from seqarch.training.checkpoint import Checkpointer
from seqarch.training.divergence import is_diverged
from seqarch.training.logging import Logger, read_rows
from seqarch.training.meter import LogRow
from seqarch.training.sharded_step import program_key
from seqarch.training.solved import last_step
from seqarch.training.start import check_alike, open_checkpoints, start_state, trained_already
from seqarch.training.state import TrainState


@dataclasses.dataclass(eq=False)
class OpenRun:
    """A run whose directory is held until `close`.

    Attributes:
      config: as the user gives it.
      resolved: `config` for this machine.
      before: the config of the last start.
      workdir: the run's directory.
      task: its task, with the training and validation data open.
      checkpoints: of the run.
      state: that of the latest checkpoint, or the initial one.
      start: the step of `state`.
      say: takes lines of progress.
      end: the last step's row, or what ended the run; None as long as there is neither.
      validated: the rows with a validation so far.
    """

    config: Config
    resolved: Config
    before: Config | None
    workdir: str | os.PathLike
    task: Task
    checkpoints: Checkpointer
    state: TrainState
    start: int
    say: Say
    end: LogRow | Diverged | None
    validated: list[LogRow]
    _stack: contextlib.ExitStack
    _logger: Logger | None = None

    @property
    def program(self) -> tuple[str, int]:
        """What members that are trained by one program have in common."""
        return program_key(self.resolved), self.start

    def record(self, mesh: Mesh, flops: dict[str, float]) -> None:
        """Opens the run's log, and writes what it starts with; call it after all checks.

        config.json, run.json and what is new in them go to the trackers too. A line warns of
        changes since the last start on which the results depend. `flops` are those of a train step
        on all devices.
        """
        self._logger = self._stack.enter_context(together(self._open_logger, UserError))
        if self.start and self.before:
            _say_schedule_change(self.before, self.config, self.start, self.say)
        if jax.process_index():
            return
        given, forms = to_dict(self.config), recorded_forms(self.resolved.model)
        made = dict(mesh=dict(mesh.shape), step=self.start, **forms)
        record = provenance.provenance() | made | dict(flops_per_step=flops)
        if self.start and (changes := rundir.changes(self.workdir, record)):
            self.say(
                f"warning: {changes} since the start before; "
                "the run will not end bit for bit where it would have"
            )
        rundir.write(self.workdir, given, record)
        self._logger.hparams(flatten(given))
        if self.start == 0 or self.before != self.config:
            texts = dict(config=to_dict(self.resolved), run=record)
            self._logger.texts(texts, self.start)
        self.task.save(self.workdir)

    def log(self, rows: list[LogRow]) -> None:
        """Logs rows; at one that shows divergence the run ends, and its directory is released."""
        for row in rows:
            self._logger.log(row)
            if is_diverged(row, self.config.steps):
                error = Diverged(
                    f"{row['refused']} steps in a row up to step {row['step']} had a loss, "
                    "gradient or update that is not finite and were not applied; lower optim.lr, "
                    "lengthen optim.warmup, or compute in model.dtype=float32"
                )
                with contextlib.suppress(Diverged), self._stack.pop_all():
                    raise error
                self.end = error
                return

    def close(self) -> None:
        """Releases the run's directory."""
        self._stack.close()

    def _open_logger(self) -> Logger:
        writes, trackers = jax.process_index() == 0, self.config.trackers
        return Logger(self.workdir, self.start, write=writes, trackers=trackers, say=self.say)


def open_member(
    config: Config,
    workdir: str | os.PathLike,
    mesh: Mesh,
    stack: contextlib.ExitStack,
    *,
    strict: bool,
    say: Say,
) -> OpenRun:
    """Returns a run whose directory is held until it is closed, or `stack` ends.

    Args:
      config: as the user gives it.
      workdir: the run's directory.
      mesh: the devices, which are in force (`jax.set_mesh`).
      stack: closes the run.
      strict: refuse a damaged checkpoint instead of continuing from the one before.
      say: takes lines of progress.

    Raises:
      UserError: where the config, the data, the devices or the directory don't fit together.
    """
    resolved = resolve(rundir.with_forms_before(workdir, config, mesh), mesh)
    abstract = sharded_step.abstract_state(resolved, mesh)
    sharded_step.abstract_batch(resolved, mesh)
    own = stack.enter_context(contextlib.ExitStack())
    task = together(lambda: _claim(config, workdir, own, say), UserError)
    check_alike(config, task.digest, workdir)
    before = rundir.config_before(workdir)
    checkpoints = own.enter_context(open_checkpoints(config, workdir, task))
    state = start_state(resolved, mesh, abstract, checkpoints, strict, say)
    start, end = int(state.step), None
    if start == (last := last_step(workdir, config)):
        end = trained_already(config, before, workdir, mesh, say, last)
    rows = [row for row in read_rows(workdir) if row["step"] <= start]
    return OpenRun(
        *(config, resolved, before, workdir, task, checkpoints, state, start, say, end, rows, own)
    )


def _claim(
    config: Config, workdir: str | os.PathLike, stack: contextlib.ExitStack, say: Say
) -> Task:
    """Opens the task, locks the directory until `stack` ends, and returns the task.

    Its errors can differ between hosts, so callers run it in `together`.
    """
    task = make_task(config)
    for split in ("train", "validation"):
        task.open(split)
    rundir.check(workdir, config)
    if jax.process_index() == 0:
        stack.enter_context(storage.lock(workdir, say))
    return task


def _say_schedule_change(before: Config, config: Config, start: int, say: Say) -> None:
    """Warns that other `steps` than at the last start change the learning rate.

    Every process calls it: under a mesh, even a scalar is computed on all devices.
    """

    def next_rate(config: Config) -> float:
        return config.optim.lr * float(optim.schedule(config, jnp.int32(start)))

    old, new = next_rate(before), next_rate(config)
    if before.steps != config.steps:
        say(
            f"warning: steps {before.steps} -> {config.steps} since the start before; "
            f"the learning rate of step {start + 1} is {new:.3g}, it would have been {old:.3g}"
        )
