"""The planner: what it tries and in which order, and its rooflines, on measurements that are made
up.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from seqarch.config import Config, MeshConfig, ModelConfig, OptimConfig
from seqarch.costs.capacity import largest_part, serving_capacity, training_capacity
from seqarch.costs.devices import place
from seqarch.costs.memory import Measurement
from seqarch.costs.roofline import bound, cost
from seqarch.costs.spec import Failed
from seqarch.model import count_parameters

ROOT = Path(__file__).parents[2]
CONFIG = Config(
    batch=16,
    length=64,
    model=ModelConfig("gru", layers=1, dim=8, mlp=8),
    mesh=MeshConfig(data=4, fsdp=1),
)
FOUR = place("tpu-v5e:2x2")
REMAT, SPLIT = "model.remat=True", "mesh.data=1, mesh.fsdp=-1"


class Made:
    """A cache in which a program needs bytes by what the config does; it remembers what it was
    asked.
    """

    def __init__(self, memory, prefill=50):
        self.memory, self.prefill, self.asked = memory, prefill, []

    def measure(self, spec):
        self.asked.append(spec)
        model = 400 // (4 if spec.config.mesh.fsdp == -1 else 1)
        rows = (
            spec.batch // spec.config.optim.accumulate // 4 if spec.phase == "train" else spec.batch
        )
        each = {
            "train": 100 if spec.config.model.remat else 300,
            "decode": 10,
            "prefill": self.prefill,
        }[spec.phase]
        return measurement(parameters=model, total=model + rows * each, memory=self.memory)


def measurement(parameters=0, state=0, total=0, memory=0, flops=0.0):
    return Measurement(parameters, 0, 0, state, 0, 0, 0, 0, total, "made up", memory, flops)


@pytest.mark.parametrize(
    "memory, changes, rows",
    [
        (1600, [""], (16, 20)),
        (1000, ["", REMAT], (24, 28)),
        (500, ["", REMAT, f"{REMAT}, {SPLIT}"], (16, 20)),
    ],
)
def test_the_cheapest_way_to_train_that_fits_is_taken(memory, changes, rows):
    found = training_capacity(Made(memory), CONFIG, FOUR, 64)
    assert (
        found.chosen.fits
        and found.chosen.change == (changes[-1] or "as configured")
        and found.batch == rows
    )
    assert [each.change for each in found.attempts][: len(changes)] == [
        each or "as configured" for each in changes
    ]


def test_what_was_tried_first_and_is_not_needed_is_left_out():
    cheap = dataclasses.replace(
        CONFIG, batch=4
    )  # a row a device: 400 of parameters, which alone are too many for it
    found = training_capacity(Made(405), cheap, FOUR, 64)
    assert [each.change for each in found.attempts] == [
        "as configured",
        REMAT,
        f"{REMAT}, {SPLIT}",
        SPLIT,
    ]
    assert (
        found.chosen.change == SPLIT
        and not found.chosen.config.model.remat
        and found.chosen.outcome.total == 400
    )


@pytest.mark.parametrize(
    "mesh, tried",
    [((4, 1), True), ((2, -1), True), ((1, -1), False), ((1, 4), False), ((-1, 4), False)],
)
def test_parameters_are_split_over_all_devices_where_they_are_not_yet(mesh, tried):
    found = training_capacity(
        Made(150), dataclasses.replace(CONFIG, mesh=MeshConfig(*mesh)), FOUR, 64
    )
    assert any("mesh.data=1, mesh.fsdp=-1" in each.change for each in found.attempts) == tried


def test_accumulation_comes_last_and_ends_at_one_row_a_device():
    found = training_capacity(Made(350), CONFIG, FOUR, 64)
    assert found.chosen.config.optim.accumulate == 2 and found.chosen.fits
    found = training_capacity(Made(150), CONFIG, FOUR, 64)
    assert (
        found.chosen.config.optim.accumulate == 4
        and not found.chosen.fits
        and found.batch.size == 0
    )


def test_as_many_sequences_are_served_as_fit():
    cache = Made(1000)
    found = serving_capacity(cache, CONFIG, FOUR, 64)
    assert found.sequences == 60 and found.decode_all.total == 1000
    assert [(spec.batch, spec.length) for spec in cache.asked if spec.phase == "prefill"] == [
        (1, 64),
        (1, 32),
        (60, 32),
    ]


@pytest.mark.parametrize("fewer", [1, 2, 3])
def test_fewer_sequences_than_chips_may_be_served_where_these_have_no_room_for_one_each(fewer):
    found = serving_capacity(Made(400 + 10 * fewer + 5, prefill=10), CONFIG, FOUR, 64)
    assert found.sequences == fewer and found.decode_all.total == 400 + 10 * fewer


def test_nothing_is_served_whose_prompt_does_not_fit():
    found = serving_capacity(Made(449), CONFIG, FOUR, 64)
    assert found.decode.fits and not found.prefill.fits and found.sequences == 0


def test_a_batch_that_the_devices_do_not_divide_is_rounded_up():
    found = training_capacity(Made(1600), dataclasses.replace(CONFIG, batch=13), FOUR, 64)
    assert found.chosen.config.batch == 16 and found.chosen.fits and found.batch == (16, 20)


def test_nothing_is_served_where_not_one_sequence_fits():
    assert serving_capacity(Made(405), CONFIG, FOUR, 64).sequences == 0


@pytest.mark.slow
def test_program_says_how_it_trains_and_serves(tmp_path):
    small = [
        "--config.model.dim=8",
        "--config.model.mlp=8",
        "--config.model.layers=1",
        "--config.batch=2",
        "--config.mesh.data=2",
    ]
    command = [
        sys.executable,
        "scripts/plan.py",
        "--config=configs/lm.py:gru",
        *small,
        "--context=64",
        f"--cache={tmp_path}",
    ]
    done = subprocess.run([*command, "--target=local:2"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in (
        "training  2 rows, as configured: ",
        "training  largest batch: ",
        "serving   one sequence: ",
        "no data sheet",
    ):
        assert line in done.stdout
    done = subprocess.run([*command, "--target=tpu-v5"], cwd=ROOT, capture_output=True, text=True)
    assert (
        done.returncode == 2
        and done.stderr.count("\n") == 1
        and "did you mean 'tpu-v5" in done.stderr
    )


def test_bound_is_the_slower_of_reading_and_computing():
    sheet = FOUR.target
    read = 1 - CONFIG.model.vocab * CONFIG.model.dim / count_parameters(CONFIG.model)
    slow_reading = bound(CONFIG, FOUR, measurement(parameters=8e9, state=1e9, flops=1e9), 2)
    assert slow_reading == (pytest.approx(2 * sheet.bandwidth / (8e9 * read + 1e9)), "bandwidth")
    slow_computing = bound(CONFIG, FOUR, measurement(parameters=1e6, flops=4e15), 2)
    assert slow_computing == (pytest.approx(2 * 4 * sheet.flops / 4e15), "compute")
    assert cost(FOUR, slow_computing, 3.0) == pytest.approx(
        1e6 / slow_computing.tokens / 3600 * 4 * 3.0
    )
    halves = place("tpu-v7")  # two devices a chip, each with half of its bandwidth
    given = bound(CONFIG, halves, measurement(state=1e9, flops=1.0), 2)
    assert given == (pytest.approx(2 * halves.target.bandwidth / 2e9), "bandwidth")
    assert (
        bound(CONFIG, FOUR, measurement(parameters=8e9), 2, unread=2).tokens
        > bound(CONFIG, FOUR, measurement(parameters=8e9), 2).tokens
    )
    assert bound(CONFIG, place("local"), measurement(parameters=1), 1) is None
    assert bound(CONFIG, FOUR, Failed("crashed"), 1) is None


def test_the_largest_part_is_named():
    assert largest_part(measurement(parameters=5, state=9, total=20)) == "the state"
    assert largest_part(measurement(parameters=5, state=9, total=40)).startswith("activations")
    assert largest_part(Failed("crashed")) == "crashed"


def test_the_configs_ways_stay_valid():
    config = dataclasses.replace(CONFIG, optim=OptimConfig(accumulate=2))
    found = training_capacity(Made(1), config, FOUR, 64)
    assert all(each.config.batch % each.config.optim.accumulate == 0 for each in found.attempts)
