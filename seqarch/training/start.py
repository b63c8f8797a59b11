"""The work before the first step of a start: comparing processes, and the state."""

import json
import os
from pathlib import Path

import jax
from jax.sharding import Mesh

from seqarch import provenance
from seqarch.config import Config, flatten, to_dict
from seqarch.devices import GIB
from seqarch.errors import UserError
from seqarch.model import count_parameters
from seqarch.runtime.cluster import gather, together
from seqarch.runtime.progress import Say
from seqarch.runtime.resident import capacity
from seqarch.tasks.base import Task
from seqarch.training import rundir, sharded_step, sharding, storage
from seqarch.training.checkpoint import Checkpointer
from seqarch.training.logging import find_faults, read_rows
from seqarch.training.meter import LogRow
from seqarch.training.state import TrainState


def check_alike(config: Config, data: str, workdir: str | os.PathLike) -> None:
    """Raises UserError where processes differ in their config, directory or data, a digest."""
    together(lambda: storage.check_shared(workdir), UserError)
    ours = flatten(dict(config=to_dict(config), data=data))
    first, *others = map(json.loads, gather(json.dumps(ours)))
    for index, theirs in enumerate(others, 1):
        for name, value in first.items():
            if name != "config.data.path" and theirs[name] != value:
                raise UserError(
                    f"process 0 has {name}={value!r}, process {index} {theirs[name]!r}; start "
                    "the same command on each"
                )


def open_checkpoints(config: Config, workdir: str | os.PathLike, task: Task) -> Checkpointer:
    """Returns the run's Checkpointer, which refuses states of another data stream or config."""
    stream = dict(seed=config.seed.data, batch=config.batch, length=config.length, data=task.digest)
    directory, deciding = Path(workdir) / "checkpoints", rundir.deciding_fields(config)
    return Checkpointer(directory, config.checkpoint.keep, stream, deciding)


def trained_already(
    config: Config,
    before: Config | None,
    workdir: str | os.PathLike,
    mesh: Mesh,
    say: Say,
    last: int,
) -> LogRow:
    """Returns the row of metrics.jsonl of the step `last`, at which a run has ended.

    Fields that may change, such as the evaluators, are written to config.json. If the last start
    had other `steps`, run.json records this one.
    """
    say(f"{workdir} is trained: {last} steps")
    if jax.process_index() == 0:
        if faults := find_faults(workdir, last):
            say(f"warning: {Path(workdir) / 'metrics.jsonl'} {faults}")
        if before and before.steps != config.steps:
            say(
                f"warning: steps {before.steps} -> {config.steps}; its learning rates were those "
                f"of a run of {before.steps} steps"
            )
            made = dict(mesh=dict(mesh.shape), step=last)
            rundir.write(workdir, to_dict(config), provenance.provenance() | made)
        rundir.write_config(workdir, to_dict(config))
    rows = [row for row in read_rows(workdir) if row["step"] == last]
    return rows[-1] if rows else dict(step=last)


def start_state(
    config: Config,
    mesh: Mesh,
    abstract: TrainState,
    checkpoints: Checkpointer,
    strict: bool,
    say: Say,
) -> TrainState:
    """Returns the state of the latest checkpoint, or the initial one where there is none.

    Args:
      config: resolved.
      mesh: the devices.
      abstract: shapes, dtypes and shardings of the state.
      checkpoints: of the run.
      strict: refuse a damaged checkpoint instead of continuing from the one before.
      say: is called with lines of progress and warnings.

    Raises:
      UserError: where the state exceeds a device's memory, no checkpoint can be restored, or the
        latest is beyond the last step.
    """
    size = count_parameters(config.model)
    device = mesh.devices.flat[0].device_kind
    say(f"{config.model.mixer}: {size:,} parameters on {mesh.size} x {device}")
    if whole := sharding.replicated(abstract.model, mesh):
        say(
            f"warning: mesh.fsdp={mesh.shape['fsdp']} divides no axis of {', '.join(whole)}; "
            "every device holds them whole"
        )
    together(lambda: _check_fits(abstract, mesh), UserError)
    if not checkpoints.steps:
        return sharded_step.init_state(config, mesh, jax.random.key(config.seed.model))
    state = checkpoints.restore(abstract, strict=strict, say=say)
    step = int(state.step)
    if step > config.steps:
        raise UserError(
            f"the run has {step} steps behind it, more than steps={config.steps}; give more steps"
        )
    say(f"going on from step {step} of {config.steps}")
    return state


def _check_fits(abstract: TrainState, mesh: Mesh) -> None:
    """Raises UserError where a device has no room for its part of the state.

    JAX on CPU waits forever for arrays that it could not allocate.
    """
    local = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    needed, room = sharding.device_bytes(abstract), capacity(local[0], len(local))
    if needed > room:
        raise UserError(
            f"parameters and optimizer take {needed / GIB:,.1f} GiB of a device, which has "
            f"{room / GIB:,.1f}; give a smaller model, or split it over more devices (mesh.fsdp)"
        )
