"""The training loop, which also continues a run that was cut short."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqarch.config import Config, resolve
from seqarch.errors import Diverged, Stopped, UserError
from seqarch.runtime.cluster import together
from seqarch.runtime.progress import Progress, Say, print_line
from seqarch.runtime.signals import StopRequests
from seqarch.tasks import make_task
from seqarch.tasks.base import Score, Task
from seqarch.tasks.batch import Batch
from seqarch.training import rundir, sharding
from seqarch.training.checkpoint import Checkpointer
from seqarch.training.dispatch import Dispatcher
from seqarch.training.logging import Logger
from seqarch.training.meter import Meter, Row, count_step_flops, make_meter
from seqarch.training.profile import Profile
from seqarch.training.start import (
    check_alike,
    open_checkpoints,
    record_start,
    start_state,
    trained_already,
)
from seqarch.training.state import Hyper, TrainState, hyper
from seqarch.training.validation import Validate, make_validate

PATIENCE = 10  # steps; a run that refuses so many in a row has diverged
LAST_REFUSED = 2  # steps; so has one that ends with so many refused (one may be an outlier)


class Setup(NamedTuple):
    """What the steps of one start need.

    config: resolved
    dispatcher: compiled
    hyper: the learning rate and the weight decay, on the devices
    batches: the steps of the dispatches that follow, and their batches
    validate: returns the columns of metrics.jsonl for a model
    meter: makes the rows of metrics.jsonl
    score: the metric of the task
    """

    config: Config
    dispatcher: Dispatcher
    hyper: Hyper
    batches: Iterator[tuple[range, Batch]]
    validate: Validate
    meter: Meter
    score: Score
    checkpoints: Checkpointer
    logger: Logger
    profile: Profile
    progress: Progress


def train(
    config: Config,
    workdir: str | os.PathLike,
    *,
    progress: Say | None = None,
    strict_restore: bool = False,
) -> Row:
    """Trains a model in a run directory, from its latest checkpoint if there is one.

    Args:
      config: as the user gives it; it is resolved for this machine here.
      workdir: the run's directory.
      progress: is called with lines of progress; by default they are printed, with a bar on a
        terminal.
      strict_restore: refuse a damaged checkpoint instead of continuing from the one before.

    Returns:
      The last step's row of metrics.jsonl.

    Raises:
      UserError: where the config, the text, the devices or the directory don't fit together.
      Diverged: where too many steps in a row were refused because they were not finite.
      Stopped: at SIGTERM and Ctrl-C, once the run is saved.
    """
    say = _silent if jax.process_index() else (progress or print_line)
    mesh = sharding.make_mesh(config.mesh)
    resolved = resolve(rundir.with_recorded_forms(workdir, config, mesh), mesh)
    abstract = sharding.abstract_state(resolved, mesh), sharding.abstract_batch(resolved, mesh)
    with contextlib.ExitStack() as stack:
        task = together(lambda: _claim(config, workdir, stack, say), UserError)
        check_alike(config, task.digest, workdir)
        before = rundir.config_before(workdir)
        stack.enter_context(rundir.full_disk_told(workdir))
        stack.enter_context(jax.set_mesh(mesh))
        checkpoints = stack.enter_context(open_checkpoints(config, workdir, task))
        state = start_state(resolved, mesh, abstract[0], checkpoints, strict_restore, say)
        if (start := int(state.step)) == config.steps:
            return trained_already(config, before, workdir, mesh, say)

        # Errors of the model and of the task come here, before anything is written.
        dispatcher, scalars = Dispatcher(resolved, mesh), _hyper(resolved, mesh)
        batches = dispatcher.batches(_rows(resolved, task, start), start)
        flops = count_step_flops(resolved, dispatcher.train_step, *abstract, scalars)
        validate = make_validate(resolved, mesh, task)

        opened = together(lambda: _logger(config, workdir, start, say), UserError)
        logger = stack.enter_context(opened)
        record_start(config, resolved, before, workdir, start, mesh, flops, logger, say)
        if jax.process_index() == 0:
            task.save(workdir)
        reporter = stack.enter_context(_progress(config, start, say))
        stops = stack.enter_context(StopRequests())
        with reporter.compiling("the train step"):
            dispatcher.compile(scalars)
        if stop := stops.received():
            raise Stopped(f"stopped before step {start + 1}; the same command goes on", stop)
        meter = make_meter(resolved, mesh, task, flops["model"])
        setup = Setup(
            config=resolved,
            dispatcher=dispatcher,
            hyper=scalars,
            batches=batches,
            validate=validate,
            meter=meter,
            score=task.score,
            checkpoints=checkpoints,
            logger=logger,
            profile=Profile(workdir, config.profile),
            progress=reporter,
        )
        return _steps(setup, state, stops)


def _steps(setup: Setup, state: TrainState, stops: StopRequests) -> Row:
    """Trains from `state` to the last step, or until a signal asks to stop."""
    config, meter, stop, save = setup.config, setup.meter, None, False
    start = step = int(state.step)
    for steps, batch in setup.batches:  # prepared while the dispatch before runs
        if step > start and (stop := _stop_request(setup, stops)):
            break
        step = steps[-1]
        setup.profile.before(steps[0], state)
        state, metrics = setup.dispatcher.run(state, batch, setup.hyper, len(steps))
        setup.profile.after(step, state)
        rows = meter.add(steps, metrics, ends_block=step % config.log_every == 0)
        save = _due(step, config.checkpoint.every, config.steps)
        validate = _due(step, config.eval.every, config.steps)
        if save or validate:
            rows += meter.drain()
        if validate:
            rows[-1] |= setup.validate(state.model)
        _log(rows, setup)
        setup.checkpoints.check()
        if save:
            setup.checkpoints.save(state)
        if save or validate:
            meter.restart()
    if stop and not save:
        _log(meter.drain(), setup)
        setup.checkpoints.check()
        setup.checkpoints.save(state)
    setup.profile.stop(state)
    setup.checkpoints.wait()  # here, where the handlers of signals are still installed
    if stop:
        line = f"stopped at step {step} of {config.steps}, which is saved; the same command goes on"
        raise Stopped(line, stop)
    return rows[-1]


def _stop_request(setup: Setup, stops: StopRequests) -> int | None:
    """Returns the signal that asked to stop, if any.

    Dispatches of several steps are waited for first, so that none is queued behind the running one.
    """
    if setup.dispatcher.most > 1:
        setup.meter.wait()
    return stops.received()


def _log(rows: list[Row], setup: Setup) -> None:
    """Logs rows and reports progress; raises Diverged at a row that shows divergence."""
    for row in rows:
        setup.logger.log(row)
        if diverged(row, setup.config.steps):
            raise Diverged(
                f"{row['refused']} steps in a row up to step {row['step']} had a loss, "
                "gradient or update that is not finite and were not applied; lower optim.lr, "
                "lengthen optim.warmup, or compute in model.dtype=float32"
            )
    if not rows:
        return
    metric, title = setup.score.metric, setup.score.title
    text, validated = f"{rows[-1][metric]:.3f} {title}", f"validation_{metric}"
    if validated in rows[-1]:
        text += f", validation {rows[-1][validated]:.3f} {title}"
    seconds = sum(row["step_seconds"] for row in rows)
    setup.progress.advance(len(rows), text, seconds=seconds, always=validated in rows[-1])


def diverged(row: Row, steps: int) -> bool:
    """Returns whether a row of metrics.jsonl shows that a run of `steps` has diverged.

    It has after PATIENCE refused steps in a row, after LAST_REFUSED at the run's end, and, if it is
    shorter than that, where all steps but the first were refused.
    """
    limit = PATIENCE
    if row["step"] == steps:
        limit = max(1, min(LAST_REFUSED, steps - 1))
    return row.get("refused", 0) >= limit


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
        stack.enter_context(rundir.lock(workdir, say))
    return task


def _rows(config: Config, task: Task, start: int) -> Iterator[Batch]:
    """Returns this process's rows of the batches of the steps after `start`."""
    return task.batches(
        "train",
        seed=config.seed.data,
        batch=config.batch,
        start=start,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def _hyper(config: Config, mesh: Mesh) -> Hyper:
    return jax.device_put(hyper(config), NamedSharding(mesh, PartitionSpec()))


def _logger(config: Config, workdir: str | os.PathLike, start: int, say: Say) -> Logger:
    writes = jax.process_index() == 0
    return Logger(workdir, start, write=writes, trackers=config.trackers, say=say)


def _progress(config: Config, start: int, say: Say) -> Progress:
    tokens = config.batch * config.length
    return Progress(config.steps, "step", done=start, rate="tokens/s", scale=tokens, say=say)


def _due(step: int, every: int, last: int) -> bool:
    """Returns whether `step` is the last one or a multiple of `every`; 0 has no multiples."""
    return step == last or bool(every and step % every == 0)


def _silent(line: str) -> None:
    del line
