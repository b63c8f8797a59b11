"""Several processes that decide as one: what one of them finds, all act on, so that none waits for one that has left.

All processes must call these functions alike.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

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
    """work(), on every process; where it raises one of `kinds` on any, it is raised on all, in the first one's words.

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
