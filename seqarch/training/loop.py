"""The training loop, which also continues runs that were cut short.

It trains one run, or several members by one program: `train` is `train_together` with one member.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqarch.config import Config
from seqarch.errors import Diverged, Stopped
from seqarch.runtime.progress import Progress, Say, print_line
from seqarch.runtime.signals import StopRequests
from seqarch.tasks.batch import Batch
from seqarch.training import sharded_step, sharding, storage
from seqarch.training.dispatch import Dispatcher
from seqarch.training.group import RunGroup
from seqarch.training.member import OpenRun, open_member
from seqarch.training.meter import LogRow, count_step_flops, make_meter
from seqarch.training.profile import Profile
from seqarch.training.state import Hyper, TrainState, hyper
from seqarch.training.validation import make_validate

WARNING = "warning: "  # how warnings begin

Ends = list[LogRow | Diverged | None]


def train(
    config: Config,
    workdir: str | os.PathLike,
    *,
    progress: Say | None = None,
    strict_restore: bool = False,
) -> LogRow:
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
    (end,) = train_together([(config, workdir)], progress=progress, strict_restore=strict_restore)
    if isinstance(end, Diverged):
        raise end
    return end


def train_together(
    runs: Sequence[tuple[Config, str | os.PathLike]],
    *,
    progress: Say | None = None,
    strict_restore: bool = False,
) -> Ends:
    """Trains runs by one program, each as `train` would, in its own directory.

    Args:
      runs: configs with their directories, in which `program_key` is the same. Those that stand at
        another step than the first one that is not finished are left as they are.
      progress: as in `train`.
      strict_restore: as in `train`.

    Returns:
      For each run the last step's row of metrics.jsonl, or Diverged, which does not end the others;
      None where it was left as it is.

    Raises:
      UserError, Stopped: as in `train`.
    """
    say = _silent if jax.process_index() else (progress or print_line)
    mesh = sharding.make_mesh(runs[0][0].mesh)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        stack.enter_context(storage.full_disk_told(runs[0][1]))
        members = []
        for config, workdir in runs:
            told = say if len(runs) == 1 else _named(Path(workdir).name, say)
            opened = open_member(config, workdir, mesh, stack, strict=strict_restore, say=told)
            members.append(opened)
        left = [member for member in members if member.end is None]
        group = [member for member in left if member.program == left[0].program]
        for member in left:
            if member not in group:
                member.close()
        if group:
            _train_group(group, mesh, stack, say)
        return [member.end for member in members]


def _train_group(
    members: Sequence[OpenRun], mesh: Mesh, stack: contextlib.ExitStack, say: Say
) -> None:
    """Trains members that stand at the same step, and sets the `end` of each."""
    first, config, start = members[0], members[0].resolved, members[0].start
    # Errors of the model and of the task come here, before anything is written.
    dispatcher = Dispatcher(config, mesh, len(members))
    batches = dispatcher.batches([_rows(each) for each in members], start)
    scalars = [_hyper(each.resolved, mesh) for each in members]
    abstract = sharded_step.abstract_state(config, mesh), sharded_step.abstract_batch(config, mesh)
    flops = count_step_flops(config, dispatcher.train_step, *abstract, scalars[0])
    validate = make_validate(config, mesh, first.task)

    for member in members:
        member.record(mesh, flops)
    reporter = stack.enter_context(_progress(config, start, len(members), say))
    stops = stack.enter_context(StopRequests())
    hypers = dispatcher.stack(scalars)
    with reporter.compiling("the train step"):
        dispatcher.compile(hypers)
    if stop := stops.received():
        raise Stopped(f"stopped before step {start + 1}; the same command goes on", stop)
    meter = make_meter(config, mesh, first.task, flops["model"], len(members))
    group = RunGroup(config, members, dispatcher, validate, meter, first.task.score, reporter)
    profile = Profile(first.workdir, config.profile)
    state = dispatcher.stack([member.state for member in members])
    for member in members:
        member.state = None  # it is donated
    _steps(group, state, start, hypers, batches, profile, stops)


def _steps(
    group: RunGroup,
    state: TrainState,
    start: int,
    hyper: Hyper,
    batches: Iterator[tuple[range, Batch]],
    profile: Profile,
    stops: StopRequests,
) -> None:
    """Trains from `state` to the last step, or until a signal asks to stop."""
    config, meter, stop, save, step = group.config, group.meter, None, False, start
    for steps, batch in batches:  # prepared while the dispatch before runs
        if step > start and (stop := _stop_request(group, stops)):
            break
        step = steps[-1]
        profile.before(steps[0], state)
        state, metrics = group.dispatcher.run(state, batch, hyper, group.counts(steps))
        profile.after(step, state)
        rows = meter.add(steps, metrics, ends_block=step % config.log_every == 0)
        save = _due(step, config.checkpoint.every, config.steps)
        validate = _due(step, config.eval.every, config.steps)
        if save or validate:
            rows = [before + last for before, last in zip(rows, meter.drain(), strict=True)]
        group.finish(rows, state, save=save, validate=validate)
        if not group.active:
            break
        if save or validate:
            meter.restart()
    if stop and not save:
        group.finish(meter.drain(), state, save=True, validate=False)
    profile.stop(state)
    for _, member in group.active:
        member.checkpoints.wait()  # here, where the handlers of signals are still installed
    if stop:
        line = f"stopped at step {step} of {config.steps}, which is saved; the same command goes on"
        raise Stopped(line, stop)


def _stop_request(group: RunGroup, stops: StopRequests) -> int | None:
    """Returns the signal that asked to stop, if any.

    Dispatches of several steps are waited for first, so that none is queued behind the running one.
    """
    if group.dispatcher.most > 1:
        group.meter.wait()
    return stops.received()


def _rows(member: OpenRun) -> Iterator[Batch]:
    """Returns this process's rows of the batches of the steps that follow."""
    config = member.resolved
    return member.task.batches(
        "train",
        seed=config.seed.data,
        batch=config.batch,
        start=member.start,
        process=jax.process_index(),
        processes=jax.process_count(),
    )


def _hyper(config: Config, mesh: Mesh) -> Hyper:
    return jax.device_put(hyper(config), NamedSharding(mesh, PartitionSpec()))


def _progress(config: Config, start: int, members: int, say: Say) -> Progress:
    tokens = config.batch * config.length * members
    return Progress(config.steps, "step", done=start, rate="tokens/s", scale=tokens, say=say)


def _due(step: int, every: int, last: int) -> bool:
    """Returns whether `step` is the last one or a multiple of `every`; 0 has no multiples."""
    return step == last or bool(every and step % every == 0)


def _named(name: str, say: Say) -> Say:
    """Returns a function that says lines with a member's name, after "warning:" if they have it."""

    def named(line: str) -> None:
        text = line.removeprefix(WARNING)
        say(f"{WARNING if text != line else ''}{name}: {text}")

    return named


def _silent(line: str) -> None:
    del line
