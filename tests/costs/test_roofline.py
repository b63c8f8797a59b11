"""Rooflines, and the speeds and costs that the planner records of measurements that are made up."""

import dataclasses

import pytest

from seqarch.config import MeshConfig
from seqarch.costs.capacity import serving_capacity, training_capacity
from seqarch.costs.devices import place
from seqarch.costs.roofline import bound, cost
from seqarch.costs.spec import Failed
from seqarch.model import count_parameters
from tests.costs.test_capacity import CONFIG, FOUR, Made, found_by, largest_batch, measurement


def test_bound_is_the_slower_of_reading_and_computing():
    sheet = FOUR.target
    read = 1 - CONFIG.model.vocab * CONFIG.model.dim / count_parameters(CONFIG.model)
    slow_reading = bound(CONFIG, FOUR, measurement(parameters=8e9, state=1e9, flops=1e9), 2)
    assert slow_reading == (pytest.approx(2 * sheet.bandwidth / (8e9 * read + 1e9)), "bandwidth")
    slow_computing = bound(CONFIG, FOUR, measurement(parameters=1e6, flops=4e15), 2)
    assert slow_computing == (pytest.approx(2 * 4 * sheet.flops / 4e15), "compute")
    assert cost(FOUR, slow_computing.tokens, 3.0) == pytest.approx(
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


def test_speeds_are_bounds_of_the_roofline_and_say_what_limits_them():
    found = found_by(serving_capacity, Made(1000), price=3.0)
    speeds = found.all("costs", "bound_tokens_per_s")
    places = [(each.at["phase"], each.at["batch"], each.at["context"]) for each in speeds]
    assert places == [
        *[("prefill", 1, 32), ("decode", 1, 64)],
        *[("prefill", 60, 32), ("decode", 60, 64)],
    ]
    prefill = bound(CONFIG, FOUR, measurement(parameters=400), 60 * 32, unread=2)
    decode = bound(CONFIG, FOUR, measurement(parameters=400), 60)
    assert [each.value for each in speeds[2:]] == [prefill.tokens, decode.tokens]
    assert all("bandwidth" in each.note for each in speeds)
    for each in speeds:
        least = found.value("costs", "million_tokens_cost", **each.at)
        assert least == cost(FOUR, each.value, 3.0)
    assert not found_by(serving_capacity, Made(1000)).all("costs", "million_tokens_cost")


def test_a_train_steps_speed_is_that_of_the_chosen_one():
    found = found_by(training_capacity, Made(500))
    (speed,) = found.all("costs", "bound_tokens_per_s")
    assert speed.at["change"] == largest_batch(found)[0]
    assert speed.value == bound(CONFIG, FOUR, measurement(parameters=100), 16 * 64).tokens


def test_what_has_no_speed_says_why():
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(data=1))
    found = found_by(serving_capacity, Made(1000), config, place("local"), price=3.0)
    for each in found.all("costs", "bound_tokens_per_s"):
        assert (each.status, each.value) == ("not_run", None) and "data sheet" in each.note
    assert not found.all("costs", "million_tokens_cost")
    cache = Made(1000, fails=lambda spec: spec.phase == "prefill" and spec.length == 32)
    prefill, *_ = found_by(serving_capacity, cache).all("costs", "bound_tokens_per_s")
    assert (prefill.status, prefill.note) == ("failed", "it crashed")
