"""What is timed on present devices, and as whose data sheet they count."""

import dataclasses
from typing import NamedTuple

import pytest

from seqarch.config import Config, ModelConfig, OptimConfig
from seqarch.costs import clock, devices
from seqarch.costs.clock import Timing
from seqarch.costs.programs import DECODED
from seqarch.errors import UserError

CONFIG = Config(batch=2, length=32, model=ModelConfig("gru,attention", layers=2, dim=16, mlp=16))
SOURCED = ModelConfig("gru", layers=1, dim=16, mlp=16, kind="encdec", encoder="gru")


def test_the_spread_is_half_the_range_of_speeds_as_a_share_of_the_median():
    """Speeds of 1/4, 1/5 and 1/8: half of 1/4 - 1/8 is 0.0625, of a median of 1/5."""
    assert Timing(median=5, fastest=4, slowest=8).spread == pytest.approx(0.3125)


def test_median_of_runs_that_were_waited_for_without_their_preparation(monkeypatch):
    """On a clock that only work moves: preparing takes 100 s, its array 10; dispatching 1 s, the
    results 5, 2, 30.
    """
    now = 0.0

    class Work:
        def __init__(self, seconds: float):
            self.seconds = seconds

        def block_until_ready(self) -> "Work":
            nonlocal now
            now, self.seconds = now + self.seconds, 0.0
            return self

    def prepare() -> Work:
        nonlocal now
        now += 100.0
        return Work(10.0)

    def run(given: Work) -> Work:
        nonlocal now
        assert given.seconds == 0.0
        now += 1.0
        return Work(results.pop(0))

    results = [5.0, 2.0, 30.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now)
    assert clock.time_runs(run, prepare) == Timing(median=6.0, fastest=3.0, slowest=31.0)


@pytest.mark.slow
@pytest.mark.parametrize("phase, taken", [("prefill", (48, 80)), ("decode", (80 - DECODED, 80))])
def test_the_last_tokens_of_a_context_are_timed_after_a_real_prefill(monkeypatch, phase, taken):
    """Seen in attention's cache, before and after the run: 80 is no multiple of a segment of 32."""
    seen = []

    def run_once(run, prepare):
        taken = lambda at: getattr(at, "states", at)[1].length.tolist()
        given = prepare()
        seen.append(taken(given))
        seen.append(taken(run(given)))
        return Timing(1.0, 1.0, 1.0)

    monkeypatch.setattr(clock, "time_runs", run_once)
    timing = clock.clock(CONFIG, phase, 2, 80, "local")
    assert seen == [[tokens] * 2 for tokens in taken]
    assert timing.median == (1 / DECODED if phase == "decode" else 1.0)


@pytest.mark.slow
def test_train_steps_and_encoder_decoders_are_timed_too():
    batches = dataclasses.replace(CONFIG, optim=OptimConfig(accumulate=2))
    assert clock.clock(batches, "train", 2, 32, "local").median > 0
    config = Config(batch=2, length=32, task="reverse", model=SOURCED)
    for phase in ("prefill", "decode"):
        assert clock.clock(config, phase, 2, 16, "local").median > 0


def test_a_target_that_is_absent_is_not_timed():
    with pytest.raises(UserError, match="is not here"):
        clock.clock(CONFIG, "train", 1, 16, "tpu-v5e")


class Chip(NamedTuple):
    """A device that is here, as JAX describes it."""

    device_kind: str
    coords: tuple[int, ...]


class Card(NamedTuple):
    device_kind: str


@pytest.mark.parametrize(
    "found, sheet",
    [
        ([Chip("TPU v5 lite", (0, 0, 0))], "tpu-v5e"),
        ([Chip("TPU v5 lite", (x, y, 0)) for x in (2, 3) for y in (0, 1)], "tpu-v5e:2x2"),
        ([Chip("TPU v5 lite", (x, 0, 0)) for x in (0, 2)], "local"),
        ([Card("NVIDIA H200")] * 2, "gpu-h200:2"),
        ([Card("cpu")], "local"),
    ],
)
def test_present_chips_have_the_data_sheet_of_their_kind_and_grid(monkeypatch, found, sheet):
    monkeypatch.setattr(devices, "_local", lambda shape: found)
    assert devices.sheet_of("local") == sheet
    assert devices.sheet_of("tpu-v5p:2x2x2") == "tpu-v5p:2x2x2"
