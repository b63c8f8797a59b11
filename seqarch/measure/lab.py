"""Measures cells in worker processes, of which a crash or a hang loses one cell, and keeps them on disk.

    with Lab(cache=Path("runs/memory/cache")) as lab:
        lab.measure(Cell(config, "train", 1, 4096, "tpu-v5e"))     # a Measurement, or Failed in a line
"""

import contextlib
import json
import queue
import threading
from collections.abc import Iterable
from concurrent import futures
from pathlib import Path
from typing import Any, NamedTuple

from seqarch.files import write_json
from seqarch.measure.cells import Cell, Failed, Outcome, key_of
from seqarch.measure.live import Actual
from seqarch.measure.memory import Measurement
from seqarch.measure.worker import Worker


class Lab:
    """Measures cells, several at once; a context manager that ends its workers.

    cache: a directory for what was measured; timeout: seconds after which a cell is given up
    platforms: JAX_PLATFORMS for the target "local"; this process may rather stay on the CPU, as an accelerator is for one
    """

    def __init__(self, cache: Path, *, workers: int = 2, timeout: float = 900, platforms: str | None = None):
        self._cache, self._timeout, self._platforms = Path(cache), timeout, platforms
        self._workers = [Worker(platforms) for _ in range(workers)]
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()
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
