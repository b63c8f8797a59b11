"""Metrics on their way from the device to the log, with the speed at which they came."""

import math
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from seqarch.config import Config
from seqarch.devices import peak_flops
from seqarch.flops import count_flops, forward_flops
from seqarch.runtime.resident import resident_peak
from seqarch.runtime.stopwatch import Stopwatch
from seqarch.tasks.base import Task
from seqarch.training.state import make_init
from seqarch.types import Array, PyTree

Row = dict[str, float]


class Meter:
    """Steps are fetched in blocks, each once the first step of the next is queued.

    So the device never waits for the host, and the time between two fetches is the time that a
    block took. No more than one step is queued behind the one that runs: what asks to stop is heard
    between steps.
    tokens, flops: of one step, summed over all devices; tokens_per_byte: of the text, its
      boundaries included; where it is None, rows have no "bits_per_byte"
    peak: FLOP/s of all devices, see `total_peak_flops`; where it is None, rows have no "mfu"
    """

    def __init__(
        self, tokens: int, flops: float, tokens_per_byte: float | None, peak: float | None = None
    ):
        self._tokens, self._flops, self._tokens_per_byte = tokens, flops, tokens_per_byte
        self._peak = peak
        self._block: list[tuple[int, Mapping[str, Array]]] = []
        self._ended = False
        self._watch = Stopwatch()

    def restart(self) -> None:
        """Sets the clock; to be called when anything but training has taken time."""
        self._watch.restart()

    def add(self, step: int, metrics: Mapping[str, Array], *, ends_block: bool) -> list[Row]:
        """Takes the metrics of a step just queued; returns the rows of the block before, if it is
        the first after one.
        """
        if self._block:
            jax.block_until_ready(self._block[-1][1])
        rows = self.drain() if self._ended else []
        self._block.append((step, metrics))
        self._ended = ends_block
        return rows

    def drain(self) -> list[Row]:
        """The rows of all steps that were added and not yet returned; waits for them."""
        block, self._block, self._ended = jax.device_get(self._block), [], False
        seconds = self._watch.lap() / max(len(block), 1)
        same = self._speed(seconds) | peak_memory()
        return [self._row(step, metrics) | same for step, metrics in block]

    def _speed(self, seconds: float) -> Row:
        rate = self._flops / seconds
        speed = dict(
            step_seconds=seconds, tokens_per_s=self._tokens / seconds, model_flops_per_s=rate
        )
        return speed if self._peak is None else speed | dict(mfu=rate / self._peak)

    def _row(self, step: int, metrics: Mapping[str, np.ndarray]) -> Row:
        """Bits per byte by the bytes that tokens of this text have on average; boundaries cost bits
        and have no bytes.
        """
        found = {name: value.item() for name, value in metrics.items()}
        row = dict(step=step, loss=found["loss"])
        if self._tokens_per_byte is not None:
            row["bits_per_byte"] = row["loss"] * self._tokens_per_byte / math.log(2)
        return row | found


def peak_memory() -> Row:
    """Returns the most that was in use so far: of the first device, or of the process where that
    doesn't tell (CPU).
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return dict(device_peak_bytes=stats["peak_bytes_in_use"])
    return dict(process_peak_rss_bytes=resident_peak())


def total_peak_flops(devices: Iterable[jax.Device], dtype: str) -> float | None:
    """Returns the peak FLOP/s of `devices` together, by which a run's MFU is measured.

    MFU is the model FLOPs utilisation of Chowdhery et al. 2022, "PaLM", appendix B. The result is
    None where the kind of a device is unknown, and where the model does not compute in bfloat16,
    as the known rates are those of bfloat16.

    Args:
        devices: all devices of the run, those of other processes included.
        dtype: of the computation, as in `config.model.dtype`.
    """
    rates = [peak_flops(device) for device in devices]
    return None if dtype != "bfloat16" or None in rates else sum(rates)


def make_meter(config: Config, mesh: Mesh, task: Task, flops: float) -> Meter:
    """Returns the meter of a run on `task`, one step of which takes `flops` on all devices."""
    peak = total_peak_flops(mesh.devices.flat, config.model.dtype)
    return Meter(config.batch * config.length, flops, task.tokens_per_byte, peak)


def step_flops(config: Config) -> float:
    """Returns the model FLOPs of one train step over the global batch: those of a forward pass, and
    of a backward pass of twice as many.
    """
    model = jax.eval_shape(make_init(config), jax.random.key(0)).model
    return 3 * config.batch * forward_flops(model, config.length).total


def count_step_flops(config: Config, train_step: Callable, *arguments: PyTree) -> dict[str, float]:
    """Returns the FLOPs of one train step on all devices: of the definition, and of the program.

    Each loop of an unknown number of trips counts as one trip among the latter.
    """
    hardware = count_flops(train_step, *arguments)
    loops = hardware.uncounted_loops
    return dict(model=step_flops(config), hardware=hardware.total, uncounted_loops=loops)
