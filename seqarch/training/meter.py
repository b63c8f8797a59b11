"""Fetches the metrics of steps from the device, and measures speed and memory."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from seqarch.config import Config
from seqarch.devices import peak_flops
from seqarch.flops import count_flops
from seqarch.model_flops import train_flops
from seqarch.runtime.resident import resident_peak
from seqarch.runtime.stopwatch import Stopwatch
from seqarch.tasks.base import Task
from seqarch.training.sharded_step import batch_layout
from seqarch.training.state import make_init
from seqarch.types import Array, PyTree

LogRow = dict[str, float]


class Meter:
    """Makes the rows of metrics.jsonl from blocks of steps.

    A block is fetched once the first dispatch of the next one is queued, so that the device never
    waits for the host, and the time between two fetches is that of a block. At most one dispatch is
    queued behind the running one, so that a request to stop is answered between dispatches.

    Args:
      tokens: of one step, on all devices.
      flops: model FLOPs of one step, on all devices.
      tokens_per_byte: of the text, boundaries included; None: rows have no "bits_per_byte".
      peak: FLOP/s of all devices, see `total_peak_flops`; None: rows have no "mfu".
      members: runs that are trained at once.

    Attributes:
      sharing: the members that share the time; each is given an equal part of it.
    """

    def __init__(
        self,
        tokens: int,
        flops: float,
        tokens_per_byte: float | None,
        peak: float | None = None,
        members: int = 1,
    ):
        self._tokens, self._flops, self._tokens_per_byte = tokens, flops, tokens_per_byte
        self._peak, self._members, self.sharing = peak, members, members
        self._block: list[tuple[range, Mapping[str, Array]]] = []
        self._ended = False
        self._watch = Stopwatch()

    def restart(self) -> None:
        """Restarts the clock; call it after anything but training has taken time."""
        self._watch.restart()

    def wait(self) -> None:
        """Waits for all steps that were added."""
        if self._block:
            jax.block_until_ready(self._block[-1][1])

    def add(
        self, steps: range, metrics: Mapping[str, Array], *, ends_block: bool
    ) -> list[list[LogRow]]:
        """Adds the metrics of a dispatch that was just queued.

        Args:
          steps: those of the dispatch.
          metrics: by name, of one step or of each, and of each member where there are several; an
            array may be longer than `steps`.
          ends_block: whether the last step ends a block.

        Returns:
          The rows of each member in the block before, if the first step begins a block, else none.
        """
        self.wait()
        rows = self.drain() if self._ended else [[] for _ in range(self._members)]
        self._block.append((steps, metrics))
        self._ended = ends_block
        return rows

    def drain(self) -> list[list[LogRow]]:
        """Returns each member's rows of the steps that were added since, once they are done."""
        block, self._block, self._ended = jax.device_get(self._block), [], False
        count = sum(len(steps) for steps, _ in block) * self.sharing
        same = self._speed(self._watch.lap() / max(count, 1)) | peak_memory()
        rows: list[list[LogRow]] = [[] for _ in range(self._members)]
        for steps, metrics in block:
            for member, found in enumerate(rows):
                found += [row | same for row in self._rows(steps, metrics, member)]
        return rows

    def _speed(self, seconds: float) -> LogRow:
        rate = self._flops / seconds
        speed = dict(
            step_seconds=seconds, tokens_per_s=self._tokens / seconds, model_flops_per_s=rate
        )
        return speed if self._peak is None else speed | dict(mfu=rate / self._peak)

    def _rows(
        self, steps: range, metrics: Mapping[str, np.ndarray], member: int
    ) -> Iterator[LogRow]:
        """Yields a member's rows of a dispatch, without speed and memory."""
        columns = {}
        for name, values in metrics.items():
            columns[name] = np.reshape(values, (self._members, -1))[member].tolist()
        for index, step in enumerate(steps):
            yield self._row(step, {name: values[index] for name, values in columns.items()})

    def _row(self, step: int, found: LogRow) -> LogRow:
        """Returns the row of a step.

        Bits per byte follow from the text's mean bytes per token; a boundary has bits but no bytes.
        """
        row = dict(step=step, loss=found["loss"])
        if self._tokens_per_byte is not None:
            row["bits_per_byte"] = row["loss"] * self._tokens_per_byte / math.log(2)
        return row | found


def peak_memory() -> LogRow:
    """Returns the peak memory so far in bytes.

    It is that of the first device or, on a CPU, which does not report any, that of the process.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return dict(device_peak_bytes=stats["peak_bytes_in_use"])
    return dict(process_peak_rss_bytes=resident_peak())


def total_peak_flops(devices: Iterable[jax.Device], dtype: str) -> float | None:
    """Returns the peak FLOP/s of all devices together, the denominator of a run's MFU.

    It is None where the kind of a device is unknown, and where the model does not compute in
    bfloat16, since the known rates are those of bfloat16.

    Args:
      devices: all devices of the run, those of other processes included.
      dtype: of the computation, as in `config.model.dtype`.

    Source: Chowdhery et al. 2022, "PaLM", appendix B (model FLOPs utilisation).
    """
    rates = [peak_flops(device) for device in devices]
    return None if dtype != "bfloat16" or None in rates else sum(rates)


def make_meter(config: Config, mesh: Mesh, task: Task, flops: float, members: int) -> Meter:
    """Returns the meter of runs on `task`.

    Args:
      config: of one of them.
      mesh: the devices.
      task: of all.
      flops: model FLOPs of a step of each, on all devices.
      members: their number.
    """
    peak = total_peak_flops(mesh.devices.flat, config.model.dtype)
    return Meter(config.batch * config.length, flops, task.tokens_per_byte, peak, members)


def step_flops(config: Config) -> float:
    """Returns the model FLOPs of one train step over the global batch."""
    model = jax.eval_shape(make_init(config), jax.random.key(0)).model
    layout = batch_layout(config)
    source, time = layout.columns(config.length)
    return config.batch * train_flops(model, time, layout.scored, source).total


def count_step_flops(config: Config, train_step: Callable, *arguments: PyTree) -> dict[str, float]:
    """Returns the FLOPs of one train step on all devices.

    Returns:
      "model": those of the definition; "hardware": those of the program, in which a loop of
      unknown trip count counts once; "uncounted_loops": the number of such loops.
    """
    hardware = count_flops(train_step, *arguments)
    loops = hardware.uncounted_loops
    return dict(model=step_flops(config), hardware=hardware.total, uncounted_loops=loops)
