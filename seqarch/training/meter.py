"""Metrics on their way from the device to the log, with the speed at which they came."""

import math
import time
from collections.abc import Iterable, Mapping

import jax
import numpy as np

from seqarch.devices import peak_flops
from seqarch.training.logging import memory
from seqarch.types import Array

Row = dict[str, float]


class Meter:
    """Steps are fetched in blocks, each once the first step of the next is queued.

    So the device never waits for the host, and the time between two fetches is the time that a
    block took. No more than one step is queued behind the one that runs: what asks to stop is heard
    between steps.
    tokens, flops: of one step, summed over all devices; tokens_per_byte: of the text, its
      boundaries included
    peak: FLOP/s of all devices, see `total_peak_flops`; where it is None, rows have no "mfu"
    """

    def __init__(
        self, tokens: int, flops: float, tokens_per_byte: float, peak: float | None = None
    ):
        self._tokens, self._flops, self._tokens_per_byte = tokens, flops, tokens_per_byte
        self._peak = peak
        self._block: list[tuple[int, Mapping[str, Array]]] = []
        self._ended = False
        self.restart()

    def restart(self) -> None:
        """Sets the clock; to be called when anything but training has taken time."""
        self._clock = time.perf_counter()

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
        now = time.perf_counter()
        seconds, self._clock = (now - self._clock) / max(len(block), 1), now
        speed = self._speed(seconds)
        return [self._row(step, metrics) | speed | memory() for step, metrics in block]

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
        loss = metrics["loss"].item()
        rest = {name: value.item() for name, value in metrics.items()}
        return (
            dict(step=step, loss=loss, bits_per_byte=loss * self._tokens_per_byte / math.log(2))
            | rest
        )


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
