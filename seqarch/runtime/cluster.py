"""Several processes as one: they join a cluster, and what one of them finds, all act on.

So none waits for one that has left. All processes must call `gather` and `together` alike.
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
    """The line of every process, by its index."""
    if jax.process_count() == 1:
        return [line]
    data = line.encode()
    sizes = multihost_utils.process_allgather(np.int32(len(data))).tolist()
    width = max(*sizes, 1)
    rows = multihost_utils.process_allgather(np.frombuffer(data.ljust(width, b"\0"), np.uint8))
    return [row.tobytes()[:size].decode() for row, size in zip(rows, sizes, strict=True)]


def together(work: Callable[[], T], *kinds: type[Exception]) -> T:
    """work(), on every process; where it raises one of `kinds` on any, it is raised on all, in the
    first one's words.

    `work` must not wait for other processes itself.
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
    """Initialises jax.distributed where the environment says that this is one process of several;
    before any backend.

    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID, or what srun, mpirun and
    multi-host TPUs set.
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
    elif (
        any(
            int(env.get(tasks) or 1) > 1
            for tasks in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
        )
        or "," in env.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in env
    ):
        _initialize()


def _initialize(*cluster: Any) -> None:
    peers.filter_native_stderr()
    jax.distributed.initialize(*cluster, heartbeat_timeout_seconds=peers.HEARTBEAT_TIMEOUT_S)


@contextlib.contextmanager
def held_for_abort() -> Iterator[None]:
    """Raises JAX's errors only once XLA had the time to end this process for one that is gone.

    Collectives fail at once where another process is gone, or hang.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError:
        if jax.distributed.is_initialized():
            time.sleep(peers.HEARTBEAT_TIMEOUT_S + 10)
        raise
