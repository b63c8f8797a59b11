"""A process in which programs are measured; it may crash or hang."""

import contextlib
import gc
import math
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from seqarch.costs.bundles import FLAGS, dump_flags
from seqarch.costs.devices import place
from seqarch.costs.spec import Failed
from seqarch.errors import NoResult, UserError, first_line
from seqarch.runtime.accelerator import check_accelerator
from seqarch.runtime.process import how_ended, spawn

ABSENT = "absent"  # the devices of a process that compiles for others
LOG = "log"  # name of the file that holds what a worker prints
FAILED = "Check failed"  # how a compiler begins to say why it ends; stack traces follow
# Programs after which a worker forgets what it traced. Programs that differ in their length share a
# tenth of the work.
TRACED = 32


class Worker:
    """A process that measures one program after the other, and that is replaced when it dies.

    Each process has a directory for its temporary files, which is removed with it. The file LOG in
    it holds what the process prints; its last line explains a crash.
    """

    def __init__(self, platforms: str | None):
        self._platforms, self._process, self._kind = platforms, None, None

    def ask(
        self, target: str, call: Callable[[], Any], timeout: float, *, fresh: bool = False
    ) -> Any:
        """Returns what `call()` returns in the process, or the UserError that it raises.

        Args:
          target: the devices of its programs.
          call: can be pickled.
          timeout: seconds after which it is given up.
          fresh: whether it gets a process of its own.
        """
        placement = place(target)
        # A process cannot change its devices once JAX has them.
        kind = placement.shape if placement.present else ABSENT
        if kind != self._kind or fresh:
            self.end()
            self._begin(kind)
        try:
            self._pipe.send(call)
            if self._pipe.poll(timeout):
                return self._pipe.recv()
            reason = f"took longer than {timeout:.0f} s"
        except (EOFError, OSError):
            reason = self._death()
        self.end()
        return Failed(reason)

    def end(self) -> None:
        """Kills the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._directory.cleanup()
        self._process = self._kind = None

    def _begin(self, kind: tuple[int, ...] | str) -> None:
        self._directory, self._kind = tempfile.TemporaryDirectory(), kind
        arguments = kind, self._platforms, self._directory.name
        self._process, self._pipe = spawn(_serve, *arguments, daemon=True)

    def _death(self) -> str:
        self._process.join(10)
        line = f"the compiler ended its process ({how_ended(self._process)})"
        said = Path(self._directory.name, LOG).read_text(errors="replace").strip().splitlines()
        checks = [each[each.index(FAILED) :] for each in said if FAILED in each]
        return f"{line}: {(checks or said)[-1][:200]}" if said else line


def _serve(pipe: Any, kind: tuple[int, ...] | str, platforms: str | None, directory: str) -> None:
    """Answers calls with what they return in a worker's process, until the other end is closed."""
    tempfile.tempdir = directory
    with open(Path(directory, LOG), "wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jax.config.update("jax_platforms", "cpu" if kind == ABSENT else platforms)
    if kind == ABSENT:
        schedules = Path(directory, "schedules")
        schedules.mkdir()
        os.environ[FLAGS] = f"{os.environ.get(FLAGS, '')} {dump_flags(schedules)}".strip()
    else:
        jax.config.update("jax_num_cpu_devices", math.prod(kind))
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    gc.disable()  # tracing makes so many objects that collecting takes a fifth of its time
    for count, call in enumerate(_received(pipe), 1):
        pipe.send(_outcome(call, kind))
        if count % TRACED == 0:
            jax.clear_caches()
            gc.collect()


def _received(pipe: Any) -> Iterator[Callable[[], Any]]:
    with contextlib.suppress(EOFError):
        while True:
            yield pipe.recv()


def _outcome(call: Callable[[], Any], kind: tuple[int, ...] | str) -> Any:
    try:
        if kind != ABSENT:
            check_accelerator()
        return call()
    except NoResult as error:
        return Failed(str(error))
    except UserError as error:
        return error
    except Exception as error:  # whatever a compiler says of a program is that program's result
        return Failed(f"the compiler fails: {first_line(error)[:200]}")
