"""Measures programs in worker processes and keeps the measurements.

    with MeasurementCache(Path("runs/memory/cache")) as cache:
        cache.measure(ProgramSpec(config, "train", 1, 4096, "tpu-v5e"))  # a Measurement or Failed

A crash or a hang of a compiler costs one program.
"""

import contextlib
import functools
import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

from seqarch.costs.clock import Timing, clock
from seqarch.costs.devices import place, sheet_of
from seqarch.costs.memory import Measurement, measure
from seqarch.costs.peak import Actual, peak
from seqarch.costs.programs import PHASES
from seqarch.costs.schedule import Seconds
from seqarch.costs.spec import SOURCES, TIME_SOURCES, Failed, Outcome, ProgramSpec, key_of
from seqarch.costs.time import estimate
from seqarch.costs.worker import Worker
from seqarch.files import read_json, write_json
from seqarch.runtime.progress import Say

# By what is wanted.
MEASURES = {Measurement: measure, Seconds: estimate, Actual: peak, Timing: clock}


class MeasurementCache:
    """Measures programs, several at once; a context manager that ends its workers.

    Args:
      cache: the directory of measurements.
      workers: number of processes that measure.
      timeout: seconds after which a program is given up.
      platforms: JAX_PLATFORMS of the workers for the target "local". This process may stay on the
        CPU, since an accelerator serves one process at a time.
      say: takes a line for each program that has to be compiled.
    """

    def __init__(
        self,
        cache: Path,
        *,
        workers: int = 2,
        timeout: float = 900,
        platforms: str | None = None,
        say: Say = lambda line: None,
    ):
        self._say = say
        self._cache, self._timeout, self._platforms = Path(cache), timeout, platforms
        self._workers = [Worker(platforms) for _ in range(workers)]
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = futures.ThreadPoolExecutor(workers)
        self._known: dict[Path, futures.Future] = {}
        self._lock, self._alone = threading.Lock(), threading.Lock()

    def __enter__(self) -> "MeasurementCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Ends the workers, including busy ones, whose programs then fail."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.end()

    def measure(self, spec: ProgramSpec) -> Outcome:
        """Returns the outcome of a program: from memory, from disk or from a worker.

        Raises:
          UserError: where the spec is wrong or the target's compiler is not installed.
        """
        return self._start(spec, Measurement).result()

    def measure_all(self, specs: Iterable[ProgramSpec]) -> list[Outcome]:
        """Measures several programs in parallel, one per worker."""
        started = [self._start(spec, Measurement) for spec in specs]
        return [future.result() for future in started]

    def estimate_all(self, specs: Iterable[ProgramSpec]) -> list[Seconds | Failed]:
        """Estimates the time of several programs in parallel, which compiles them whole."""
        started = [self._start(spec, Seconds) for spec in specs]
        return [future.result() for future in started]

    def run(self, spec: ProgramSpec) -> Actual | Failed:
        """Runs a program on the target "local", alone and in a fresh process; returns its peak."""
        with self._alone:
            return self._start(spec, Actual).result()

    def clock(self, spec: ProgramSpec) -> Timing | Failed:
        """Times a program on the target "local", while no other program is measured."""
        with self._alone:
            return self._start(spec, Timing).result()

    def sheet(self, target: str) -> str:
        """Returns what `sheet_of` says of a target; a worker asks its devices."""
        if not place(target).present:
            return target
        with self._taken(1) as worker:
            found = worker.ask(target, functools.partial(sheet_of, target), self._timeout)
        return target if isinstance(found, (Failed, Exception)) else found

    def _start(self, spec: ProgramSpec, kind: type[NamedTuple]) -> futures.Future:
        sources = SOURCES + TIME_SOURCES if kind is Seconds else SOURCES
        key = key_of(spec, self._platforms, sources)
        path = self._cache / f"{kind.__name__.lower()}-{key}.json"
        with self._lock:
            if path not in self._known:
                known = _read(path, kind)
                started = None if known else self._threads.submit(self._measure, spec, path, kind)
                self._known[path] = started or _done(known)
            return self._known[path]

    def _measure(self, spec: ProgramSpec, path: Path, kind: type[NamedTuple]) -> Any:
        path.parent.mkdir(parents=True, exist_ok=True)  # fails now, not after the compilation
        phase, size = PHASES[spec.phase], f"{spec.batch:,} x {spec.length:,} tokens"
        call = functools.partial(MEASURES[kind], *spec)
        with self._taken(len(self._workers) if kind is Timing else 1) as worker:
            self._say(f"compiling a {phase} of {size} for {spec.target}")
            outcome = worker.ask(spec.target, call, self._timeout, fresh=kind is Actual)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, kind):
            write_json(path, outcome._asdict())
        return outcome

    @contextlib.contextmanager
    def _taken(self, count: int) -> Iterator[Worker]:
        """Gives one of `count` workers, all of which are kept from others."""
        taken = [self._idle.get() for _ in range(count)]
        try:
            yield taken[0]
        finally:
            for worker in taken:
                self._idle.put(worker)


def _done(value: Any) -> futures.Future:
    future = futures.Future()
    future.set_result(value)
    return future


def _read(path: Path, kind: type[NamedTuple]) -> Any:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return kind(**read_json(path))
    return None
