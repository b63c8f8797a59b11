"""Cells of a memory table: measured in worker processes, of which a crash or a hang loses one cell, and kept on disk.

with Lab(cache=Path("runs/memory/cache")) as lab:
    lab.measure(Cell(config, "train", 1, 4096, "tpu-v5e"))     # a Measurement, or Failed in a line
"""

import contextlib
import dataclasses
import functools
import gc
import hashlib
import inspect
import json
import math
import multiprocessing
import os
import platform
import queue
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax

import seqarch
from seqarch import tuning
from seqarch.cli import check_accelerator
from seqarch.config import Config, to_dict, without_forms
from seqarch.errors import NoResult, UserError, first_line
from seqarch.files import write_json
from seqarch.measure.live import Actual, peak
from seqarch.measure.memory import Measurement, measure
from seqarch.measure.programs import abstract_states, serving_model
from seqarch.measure.targets import place
from seqarch.mixers import resolve_mixer
from seqarch.patterns import parse_pattern

PACKAGES = ("jax", "jaxlib", "flax", "optax", "libtpu", "jax-cuda13-plugin")
SOURCES = (
    *(f"{name}.py" for name in ("config", "data/loader", "flops", "generate", "layers", "model", "patterns", "tuning")),
    *("ops/*.py", "mixers/*.py", "training/*.py"),
    *(f"measure/{name}.py" for name in ("live", "memory", "plans", "programs", "targets")),
)

COMPILERS = ("JAX_", "LIBTPU_", "XLA_")  # environment variables that begin so may change a program
APART = ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")

LOG = "log"  # of what a worker prints
TRACED = 32  # cells after which a worker forgets what it traced: programs that differ in their length share a tenth of the work


class Cell(NamedTuple):
    """The arguments of `seqarch.measure.memory.measure`."""

    config: Config
    phase: str
    batch: int
    length: int
    target: str


class Failed(NamedTuple):
    """A cell without a measurement; reason: one line."""

    reason: str


Outcome = Measurement | Failed


class Lab:
    """Measures cells, several at once; a context manager that ends its workers.

    cache: a directory for what was measured; timeout: seconds after which a cell is given up
    platforms: JAX_PLATFORMS for the target "local"; this process may rather stay on the CPU, as an accelerator is for one
    """

    def __init__(self, cache: Path, *, workers: int = 2, timeout: float = 900, platforms: str | None = None):
        self._cache, self._timeout, self._platforms = Path(cache), timeout, platforms
        self._workers = [_Worker(platforms) for _ in range(workers)]
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = futures.ThreadPoolExecutor(workers)
        self._known: dict[Path, futures.Future] = {}
        self._lock, self._alone = threading.Lock(), threading.Lock()

    def __enter__(self) -> "Lab":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ends the workers, also those at work; a cell that is waited for fails."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.end()

    def measure(self, cell: Cell) -> Outcome:
        """From memory, from disk or from a worker; the same program is asked for once. Raises UserError."""
        return self._start(cell, Measurement).result()

    def measure_all(self, cells: Iterable[Cell]) -> list[Outcome]:
        """The same of several, as many at once as there are workers."""
        return [started.result() for started in [self._start(cell, Measurement) for cell in cells]]

    def run(self, cell: Cell) -> Actual | Failed:
        """The same for a program that really runs, on the target local: in a fresh process, and one at a time."""
        with self._alone:
            return self._start(cell, Actual).result()

    def _start(self, cell: Cell, kind: type[NamedTuple]) -> futures.Future:
        path = self._cache / f"{kind.__name__.lower()}-{key_of(cell, self._platforms)}.json"
        with self._lock:
            if path not in self._known:
                known = _read(path, kind)
                self._known[path] = _done(known) if known else self._threads.submit(self._ask, cell, path, kind)
            return self._known[path]

    def _ask(self, cell: Cell, path: Path, kind: type[NamedTuple]) -> Any:
        worker = self._idle.get()
        try:
            outcome = worker.ask(cell, kind, self._timeout)
        finally:
            self._idle.put(worker)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, kind):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, outcome._asdict())
        return outcome


def _done(value: Any) -> futures.Future:
    future = futures.Future()
    future.set_result(value)
    return future


def _read(path: Path, kind: type[NamedTuple]) -> Any:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return kind(**json.loads(path.read_text()))
    return None


def key_of(cell: Cell, platforms: str | None = None) -> str:
    """A digest of what decides the cell's program and its plan: the config, shapes, versions, sources, tuned forms, the
    compilers' environment and the target.

    Where a state does not grow with the context, cells of all contexts are the same; so are decoding steps of all forms.
    """
    config, program = cell.config, cell.length
    if cell.phase == "decode":
        config = dataclasses.replace(config, model=without_forms(config.model))
    given = to_dict(config)
    if cell.phase != "train":
        states = abstract_states(serving_model(config.model), cell.batch, cell.length)
        program = [min(config.length, cell.length) if cell.phase == "prefill" else 1, str(states)]
    about = [cell.phase, cell.batch, program, cell.target, given["model"], given["optim"], given["mesh"], _versions()]
    about += [_digest(inspect.getfile(resolve_mixer(layer.mixer))) for layer in parse_pattern(config.model.mixer)]
    about += [tuning.path().read_text() if tuning.path().exists() else None]
    about += sorted(pair for pair in os.environ.items() if pair[0].startswith(COMPILERS) and pair[0] not in APART)
    if place(cell.target).present:
        about += [platform.node(), len(os.sched_getaffinity(0)), platforms]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


@functools.cache
def _versions() -> list[str]:
    root = Path(seqarch.__file__).parent
    return [*(_digest(path) for pattern in SOURCES for path in sorted(root.glob(pattern))), *packages()]


def packages() -> list[str]:
    """Names and versions of what decides a plan beside seqarch's own source."""
    return [f"{name} {_version(name)}" for name in PACKAGES]


@functools.cache
def _digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


class _Worker:
    """A process that measures one cell after the other, begun when it is needed and again after it died.

    Processes are spawned: a compiler's threads do not survive a fork. Each has a directory for its temporary files, which
    goes with it; there is what it prints, the last line of which is what there is to say of a crash.
    """

    def __init__(self, platforms: str | None):
        self._platforms, self._process, self._kind = platforms, None, None

    def ask(self, cell: Cell, asked: type[NamedTuple], timeout: float) -> Any:
        """An `asked`, Failed, or the user's mistake."""
        placement = place(cell.target)
        kind = placement.shape if placement.present else "absent"  # what a process cannot change once JAX has its devices
        if kind != self._kind or asked is Actual:
            self.end()
            self._begin(kind)
        try:
            self._pipe.send((cell, asked))
            if self._pipe.poll(timeout):
                return self._pipe.recv()
            reason = f"took longer than {timeout:.0f} s"
        except (EOFError, OSError):
            reason = self._death()
        self.end()
        return Failed(reason)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._directory.cleanup()
        self._process = self._kind = None

    def _begin(self, kind: tuple[int, ...] | str) -> None:
        context = multiprocessing.get_context("spawn")
        self._directory = tempfile.TemporaryDirectory()
        self._pipe, theirs = context.Pipe()
        arguments = theirs, kind, self._platforms, self._directory.name
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        self._kind = kind
        theirs.close()

    def _death(self) -> str:
        self._process.join(10)
        code = self._process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        said = Path(self._directory.name, LOG).read_text(errors="replace").strip().splitlines()[-1:]
        return f"the compiler ended its process ({how}){': ' + said[0][:200] if said else ''}"


def _serve(pipe: Any, kind: tuple[int, ...] | str, platforms: str | None, directory: str) -> None:
    """Runs in a worker: cells in, outcomes out, until the other end is gone."""
    tempfile.tempdir = directory
    with open(Path(directory, LOG), "wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jax.config.update("jax_platforms", "cpu" if kind == "absent" else platforms)
    if kind != "absent":
        jax.config.update("jax_num_cpu_devices", math.prod(kind))
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    gc.disable()  # tracing makes so many objects that collecting takes a fifth of its time
    for count, (cell, asked) in enumerate(_received(pipe), 1):
        pipe.send(_outcome(cell, asked))
        if count % TRACED == 0:
            jax.clear_caches()
            gc.collect()


def _received(pipe: Any) -> Iterator[tuple[Cell, type[NamedTuple]]]:
    with contextlib.suppress(EOFError):
        while True:
            yield pipe.recv()


def _outcome(cell: Cell, asked: type[NamedTuple]) -> Any:
    try:
        if place(cell.target).present:
            check_accelerator()
        return measure(*cell) if asked is Measurement else peak(*cell)
    except NoResult as error:
        return Failed(str(error))
    except UserError as error:
        return error
    except Exception as error:  # whatever a compiler says of a program is that cell's result
        return Failed(f"the compiler fails: {first_line(error)[:200]}")
