"""What a run needs of its directory's storage: a lock, the same files for all, and free space."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from seqarch.errors import UserError, is_full_disk
from seqarch.files import clear_partial
from seqarch.runtime.progress import Say


@contextlib.contextmanager
def lock(run_dir: str | os.PathLike, say: Say = print) -> Iterator[None]:
    """Holds RUN/lock, which the system releases however the process ends.

    Args:
      run_dir: the run's directory.
      say: is called with a warning on a file system without locks.

    Raises:
      UserError: where another process holds the lock.
    """
    clear_partial(Path(run_dir))
    with (Path(run_dir) / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process trains in {run_dir}; wait for it, stop it, or give another "
                "--workdir"
            ) from error
        except OSError as error:  # a file system without locks
            say(
                f"warning: {run_dir} cannot be locked ({error.strerror}); see to it that "
                "nothing else trains there"
            )
        yield


def check_shared(run_dir: str | os.PathLike) -> None:
    """Raises UserError where this process does not see the lock of process 0.

    Each process would then write its part of a checkpoint to a storage of its own.
    """
    if not (Path(run_dir) / "lock").exists():
        raise UserError(
            f"--workdir {run_dir} is not the directory that process 0 has; give one on storage "
            "that all share"
        )


@contextlib.contextmanager
def full_disk_told(run_dir: str | os.PathLike) -> Iterator[None]:
    """Turns any library's error at a full disk into a UserError.

    Errors of other threads at a full disk are not printed, since this thread gets one too. Once the
    disk was full, no error of TensorBoard's threads is: they may fail later, as their queue closes.
    """
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        ours = type(args.thread).__module__.startswith("tensorboardX.")
        if not (is_full_disk(args.exc_value) or (full and ours)):
            before(args)

    full = False
    threading.excepthook = hook
    try:
        yield
    except Exception as error:
        full = is_full_disk(error)
        if not full:
            raise
        line = (
            f"the disk of {run_dir} is full; free some space and the same command goes on "
            "from the last checkpoint"
        )
        raise UserError(line) from error
    finally:
        if not full:
            threading.excepthook = before
