"""Equal states and equal FLOPs, on the model's own count, for every mixer."""

import dataclasses

import pytest

from seqarch.compare.members import match_members
from seqarch.compare.solving import (
    TOLERANCE,
    least_enough,
    match_flops,
    match_state,
    state_bytes,
    training_flops,
    width_knob,
)
from seqarch.config import Config, ModelConfig
from seqarch.errors import UserError
from seqarch.mixers import MIXERS

SMALL = ModelConfig("attention(window=16)", layers=2, dim=64, mlp=96)
LENGTH = 48


def of(mixer, **fields):
    return dataclasses.replace(SMALL, mixer=mixer, **fields)


@pytest.mark.parametrize("mixer", [*sorted(MIXERS), "mamba,gru"])
def test_every_mixer_gets_the_state_of_the_reference(mixer):
    model = match_state(of(mixer), LENGTH, SMALL)
    target = state_bytes(SMALL, LENGTH)
    assert abs(state_bytes(model, LENGTH) - target) <= TOLERANCE * target
    assert dataclasses.replace(model, mixer=mixer, dim=SMALL.dim) == of(mixer)


@pytest.mark.parametrize(
    "mixer, solved",
    [
        # keys, values and positions of 16 tokens, and the length: 2 x (2 x 64 x 16 + 17) x 4 bytes
        ("attention", of("attention(window=16)")),
        ("gru", of("gru(hidden=2065)", dim=64)),
        # E = 128 inner channels have 3 inputs and N entries: 2 x 128 x (3 + N) x 4 bytes
        ("mamba", of("mamba(state_dim=13)")),
        # two layers have 2 x d (d / 4 + 1) x 4 bytes, and 4 heads divide d = 88
        ("linear_attention", of("linear_attention", dim=88)),
        ("gru(hidden=16)", None),
        ("attention(window=16)", SMALL),
    ],
)
def test_the_option_that_sizes_the_state_is_solved_and_else_the_width(mixer, solved):
    if solved is None:
        with pytest.raises(UserError, match=r"cannot come within 10% of 16.1 KiB of state"):
            match_state(of(mixer), LENGTH, SMALL)
    else:
        assert match_state(of(mixer), LENGTH, SMALL) == solved


def test_a_state_that_makes_a_member_huge_is_refused():
    reference = of("attention")
    with pytest.raises(UserError, match=r"'gru' matches 'attention' at gru\(hidden\)=\d+ alone"):
        match_state(of("gru"), 512, reference)


@pytest.mark.parametrize("mixer", sorted(MIXERS))
def test_every_mixer_gets_the_flops_of_the_reference(mixer):
    model = match_flops(of(mixer), LENGTH, SMALL)
    target = training_flops(SMALL, LENGTH)
    assert abs(training_flops(model, LENGTH) - target) <= TOLERANCE * target
    assert dataclasses.replace(model, dim=SMALL.dim) == of(mixer)


def test_widths_are_multiples_that_heads_divide():
    assert width_knob(of("attention(heads=3)")).unit == 6  # rotary heads have an even width
    assert width_knob(of("linear_attention,gru")).unit == 4
    assert width_knob(of("mamba")).unit == 1


def test_the_least_width_with_enough_state():
    def measure(model):
        return state_bytes(model, LENGTH)

    knob = width_knob(of("linear_attention"))
    enough = least_enough(knob, measure, 10_000)
    assert measure(knob.set(enough)) >= 10_000 > measure(knob.set(enough - 4))
    exact = measure(knob.set(64))
    assert least_enough(knob, measure, exact) == 64


def test_members_are_matched_by_what_the_comparison_says():
    base = Config(length=LENGTH, model=SMALL)
    by_state = match_members(base, SMALL.mixer, ["attention", "mamba"], "state")
    assert by_state["attention"].model == SMALL
    assert by_state["mamba"].model.mixer == "mamba(state_dim=13)"
    with pytest.raises(UserError, match="unknown config.match 'sate'; did you mean 'state'"):
        match_members(base, SMALL.mixer, ["gru"], "sate")
