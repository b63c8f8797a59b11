"""Starts processes, and sets what libraries print and which memory and compilations are kept.

Processes are spawned, since JAX's threads do not survive a fork.
"""

import contextlib
import ctypes
import functools
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

import jax
from absl import logging

from seqarch.errors import is_full_disk
from seqarch.files import cache_directory
from seqarch.provenance import cpus
from seqarch.runtime.accelerator import accelerator

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def spawn(
    target: Callable[..., None], *arguments: Any, daemon: bool = False
) -> tuple[BaseProcess, Connection]:
    """Starts a function in a process of its own.

    SIGINT is blocked in the new process until it is ready to handle it.

    Args:
      target: is called with the other end of the pipe, then `arguments`.
      arguments: must be picklable.
      daemon: whether the process ends with this one.

    Returns:
      The process and this end of the pipe.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=daemon)
    resource_tracker.ensure_running()  # now, since its start unblocks SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    process.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    theirs.close()
    return process, ours


def how_ended(process: BaseProcess) -> str:
    """Returns how a process ended, such as "SIGKILL" or "exit code 1"."""
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def quiet() -> None:
    """Silences the logs and warnings of libraries.

    Their errors are exceptions; Orbax logs what it raises as well.
    """
    logging.use_absl_handler()
    logging.set_verbosity(logging.FATAL)
    logging.set_stderrthreshold(logging.FATAL)
    for library in ("jax", "tensorboardX"):
        python_logging.getLogger(library).setLevel(python_logging.ERROR)
    if accelerator() is None:
        # Plugins log errors where only their compilers are installed (requirements-aot.txt).
        python_logging.getLogger("jax._src.xla_bridge").setLevel(python_logging.CRITICAL)
    sys.unraisablehook = _unraisablehook
    warnings.filterwarnings("ignore", module=r"(orbax|flax|jax|tensorboardX)\b")


def keep_memory() -> None:
    """Has glibc keep freed memory for the next allocation.

    XLA on CPU allocates a program's temporaries at each call, and the system would clear every page
    of them again. On one core, train steps of 8 x 256 tokens through two layers of width 64 take
    105 ms instead of 140 with Mamba, 84 instead of 112 with attention and 62 instead of 64 with the
    GRU.
    """
    with contextlib.suppress(OSError, AttributeError):  # with another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never


@functools.cache
def keep_compilations() -> None:
    """Keeps compilations in the user's cache, since runs of one model share their programs.

    Call it before anything is compiled, as JAX opens its cache once.

    Compilations are native programs, so they are not kept in a directory that is passed on. A
    program for a CPU is split over the cores that its process had when it was compiled. JAX's cache
    ignores their number, so each number has a directory of its own.
    """
    directory = jax.config.jax_compilation_cache_dir or str(cache_directory() / "compilations")
    apart = f"/{cpus()}-cpus" if jax.default_backend() == "cpu" else ""
    jax.config.update("jax_compilation_cache_dir", directory + apart)


def _unraisablehook(unraisable: Any) -> None:
    """Prints unraisable exceptions, except those that follow a full disk.

    They come from TensorStore's late writes and from TensorBoard's last one at exit.
    """
    error = unraisable.exc_value
    if not (is_full_disk(error) or "Event loop is closed" in str(error)):
        sys.__unraisablehook__(unraisable)
