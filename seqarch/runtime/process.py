"""A process's settings: what its libraries print, and what its allocator keeps; and new processes,
which are spawned, since JAX's threads do not survive a fork.
"""

import contextlib
import ctypes
import logging as python_logging
import multiprocessing
import signal
import sys
import warnings
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from absl import logging

from seqarch.errors import is_full_disk
from seqarch.runtime.accelerator import accelerator

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def spawn(
    target: Callable[..., None], *arguments: Any, daemon: bool = False
) -> tuple[BaseProcess, Connection]:
    """Starts `target` with the other end of a pipe and `arguments` in a process of its own.

    SIGINT waits in the new process until that unblocks it, so that Ctrl-C finds it able to answer.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=daemon)
    resource_tracker.ensure_running()  # which would unblock SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    process.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    theirs.close()
    return process, ours


def how_ended(process: BaseProcess) -> str:
    """Returns what ended a process: "SIGKILL", or "exit code 1"."""
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def quiet() -> None:
    """Keeps the libraries to what needs attention; stderr is for the user.

    Orbax, by absl, logs what it raises as well.
    """
    logging.use_absl_handler()
    logging.set_verbosity(logging.FATAL)
    logging.set_stderrthreshold(logging.FATAL)
    for library in ("jax", "tensorboardX"):
        python_logging.getLogger(library).setLevel(python_logging.ERROR)
    if accelerator() is None:
        # Where only their compilers are installed (requirements-aot.txt), plugins complain of that.
        python_logging.getLogger("jax._src.xla_bridge").setLevel(python_logging.CRITICAL)
    sys.unraisablehook = _unraisablehook
    warnings.filterwarnings("ignore", module=r"(orbax|flax|jax|tensorboardX)\b")


def keep_memory() -> None:
    """Has glibc keep what is freed for what is allocated next.

    Else the system clears every page of it again: XLA on CPU allocates a program's temporaries at
    each call. Train steps of 8 x 256 tokens through two layers of 64 take, on one core, 105 ms in
    place of 140 with Mamba, 84 in place of 112 with attention and 62 in place of 64 with the GRU.
    """
    with contextlib.suppress(OSError, AttributeError):  # of another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never


def _unraisablehook(unraisable: Any) -> None:
    """Leaves out what follows a full disk, which is told: TensorStore's late writes, and
    TensorBoard's last at the exit.
    """
    error = unraisable.exc_value
    if not (is_full_disk(error) or "Event loop is closed" in str(error)):
        sys.__unraisablehook__(unraisable)
