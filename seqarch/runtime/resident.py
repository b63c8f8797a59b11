"""How much memory is in use: of a device where it tells, else of this process, from the system."""

import contextlib
import ctypes
import gc
import re
import resource
import sys
from pathlib import Path

import jax

from seqarch.errors import NoResult


def used(device: jax.Device) -> int:
    """Returns the bytes in use on `device` now; on a CPU, which doesn't tell, of the process."""
    stats = device.memory_stats()
    return stats["bytes_in_use"] if stats else resident()


def resident() -> int:
    """Returns the bytes of this process that are in memory now.

    Raises:
      NoResult: where the system does not tell.
    """
    return _status("VmRSS")


def resident_peak() -> int:
    """Returns the most bytes of this process that were in memory at once, since `reset_peak`."""
    with contextlib.suppress(NoResult):
        return _status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> int:
    """Gives free memory back to the system and returns `resident()`, from where the peak starts.

    Raises:
      NoResult: where the system does not tell the peak of a process.
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
