"""Clusters of processes: joining one, exchanging lines, and raising an error on all processes.

An error of one process is raised on all, so that none waits for one that has left. All processes
must call `gather` and `together` in the same order.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from seqarch.errors import UserError
from seqarch.runtime import peers

T = TypeVar("T")


def gather(line: str) -> list[str]:
    """Returns the lines of all processes, by their index."""
    if jax.process_count() == 1:
        return [line]
    data = line.encode()
    sizes = multihost_utils.process_allgather(np.int32(len(data))).tolist()
    width = max(*sizes, 1)
    rows = multihost_utils.process_allgather(np.frombuffer(data.ljust(width, b"\0"), np.uint8))
    return [row.tobytes()[:size].decode() for row, size in zip(rows, sizes, strict=True)]


def together(work: Callable[[], T], *kinds: type[Exception]) -> T:
    """Returns work(), or raises an error on all processes if it raises one on any of them.

    Args:
      work: is called on every process; it must not wait for others.
      kinds: the exceptions that are passed on; the message is that of the first process with one.
    """
    if jax.process_count() == 1:
        return work()
    result, said = None, ""
    try:
        result = work()
    except kinds as error:
        said = f"{kinds.index(type(error))} {error}"
    lines = gather(said)
    for index, (kind, _, words) in enumerate(line.partition(" ") for line in lines):
        if words:
            raise kinds[int(kind)](words if len(set(lines)) == 1 else f"process {index}: {words}")
    return result


def join_cluster() -> None:
    """Initialises jax.distributed if this is one process of several; call it before any backend.

    The environment tells: JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID, or the
    variables of srun, mpirun and multi-host TPUs.

    Raises:
      UserError: where the JAX variables do not fit together.
    """
    env = os.environ
    if address := env.get("JAX_COORDINATOR_ADDRESS"):
        try:
            count, index = int(env["JAX_NUM_PROCESSES"]), int(env["JAX_PROCESS_ID"])
        except (KeyError, ValueError) as error:
            raise UserError(
                f"JAX_COORDINATOR_ADDRESS is {address}; set JAX_NUM_PROCESSES and "
                "JAX_PROCESS_ID too"
            ) from error
        if not (0 <= index < count and ":" in address):
            raise UserError(
                f"process {index} of {count} at {address}: give HOST:PORT and processes 0 to "
                f"{count - 1}"
            )
        _initialize(address, count, index)
    elif _launched_with_others():
        _initialize()


def _launched_with_others() -> bool:
    """Returns whether srun, mpirun or a multi-host TPU started several processes."""
    env = os.environ
    sizes = [env.get(name) for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")]
    several_hosts = "," in env.get("TPU_WORKER_HOSTNAMES", "")
    several_slices = "MEGASCALE_COORDINATOR_ADDRESS" in env
    return any(int(size or 1) > 1 for size in sizes) or several_hosts or several_slices


def _initialize(*cluster: Any) -> None:
    peers.filter_native_stderr()
    jax.distributed.initialize(*cluster, heartbeat_timeout_seconds=peers.HEARTBEAT_TIMEOUT_S)


@contextlib.contextmanager
def held_for_abort() -> Iterator[None]:
    """Delays JAX's errors until XLA had time to abort this process because another one is gone.

    Collectives fail at once, or hang, where another process is gone.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError:
        if jax.distributed.is_initialized():
            time.sleep(peers.HEARTBEAT_TIMEOUT_S + 10)
        raise
