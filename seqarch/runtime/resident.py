"""Measures memory: what a device has, and what is in use of it, or else by this process."""

import contextlib
import ctypes
import gc
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import jax

from seqarch.errors import NoResult


def used(device: jax.Device) -> int:
    """Returns the bytes in use on a device; for a CPU, which reports none, those of the process."""
    stats = device.memory_stats()
    return stats["bytes_in_use"] if stats else resident()


def capacity(device: jax.Device, count: int) -> int:
    """Returns the bytes that a device has for programs.

    That is what its allocator says, or else the system's memory, or what a container is allowed of
    it, which `count` devices share.
    """
    if limit := (device.memory_stats() or {}).get("bytes_limit"):
        return limit
    system = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(system, *group_limits()) // count


def group_limits(root: Path = Path("/")) -> Iterator[int]:
    """Yields the bytes of memory that each control group of this process allows, if it has a limit.

    Source: Linux, "Control Group v2" (memory.max) and "Memory Resource Controller" (version 1).
    """
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # another system
        return
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers not in _GROUP_FILES:
            continue
        directory, name = _GROUP_FILES[controllers]
        own = PurePosixPath(path.lstrip("/"))
        for each in (own, *own.parents):
            with contextlib.suppress(OSError, ValueError):  # a container hides some; "max"
                yield int((root / directory / each / name).read_text())


# The directory of control groups and the file of a limit, by the controllers that /proc names.
_GROUP_FILES = {
    "": ("sys/fs/cgroup", "memory.max"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes"),
}


def resident() -> int:
    """Returns the resident bytes of this process.

    Raises:
      NoResult: where the system does not report them.
    """
    return _status("VmRSS")


def resident_peak() -> int:
    """Returns the peak of this process's resident bytes since `reset_peak`, or since its start."""
    with contextlib.suppress(NoResult):
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> int:
    """Releases free memory to the system, restarts the peak and returns `resident()`.

    Raises:
      NoResult: where the system cannot restart the peak.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError) as error:
        raise NoResult(
            "this system does not tell the peak of a process's resident memory"
        ) from error
    return resident()


def _status(field: str) -> int:
    try:
        text = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(rf"^{field}:\s*(\d+)", text, re.MULTILINE)[1])
    except (OSError, TypeError) as error:  # another system, or one without this field
        raise NoResult("this system does not tell a process's resident memory") from error
