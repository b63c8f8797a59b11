"""Equal states and equal FLOPs, on the model's own count, for every mixer."""

import dataclasses

import pytest

from seqarch.compare.members import match_members
from seqarch.compare.solving import (
    TOLERANCE,
    Field,
    flops_per_token,
    least_enough,
    match_flops,
    match_state,
    nearest,
    width_field,
)
from seqarch.config import Config, ModelConfig
from seqarch.costs.memory import state_bytes
from seqarch.errors import UserError
from seqarch.mixers import MIXERS
from tests.conftest import CORE
from tests.grids import slow_but

SMALL = ModelConfig("attention(window=6)", layers=1, dim=32, mlp=0, vocab=16)
LENGTH = 8


def of(mixer, **fields):
    return dataclasses.replace(SMALL, mixer=mixer, **fields)


@pytest.mark.parametrize("mixer", slow_but(CORE, MIXERS))
def test_every_mixer_gets_the_state_of_a_wider_one(mixer):
    wider = of(mixer, dim=48)
    found, target = match_state(of(mixer), LENGTH, wider), state_bytes(wider, LENGTH)
    assert abs(state_bytes(found, LENGTH) - target) <= TOLERANCE * target


def test_a_model_gets_the_flops_of_a_wider_one_and_of_another_mixer():
    wider, target = of("linear_attention", dim=48), flops_per_token(of("mamba"), 2)
    assert match_flops(of("linear_attention"), 2, wider) == wider
    found = match_flops(of("linear_attention"), 2, of("mamba"))
    assert abs(flops_per_token(found, 2) - target) <= TOLERANCE * target


def test_the_state_of_an_encoder_decoder_is_that_of_source_and_target():
    """Cross-attention keeps a key, a value and a position of each token of the source."""
    crossed = of("gru", kind="encdec", encoder="gru")
    assert state_bytes(crossed, 8, 5) - state_bytes(crossed, 8, 4) == (2 * 32 + 1) * 4
    summed = dataclasses.replace(crossed, source="summary")
    assert state_bytes(summed, 8, 5) == state_bytes(summed, 8, 4) == 3 * 32 * 4
    found = match_state(of("attention"), LENGTH, crossed, source=6)
    assert found == of("attention(window=6)")


@pytest.mark.slow
def test_an_encoder_decoder_gets_the_flops_of_a_language_model():
    model = of("gru", kind="encdec", encoder="attention(causal=False,heads=2)", source="summary")
    reference = of("gru", dim=96)
    found, target = match_flops(model, 8, reference, source=4), flops_per_token(reference, 8)
    assert abs(flops_per_token(found, 8, 4) - target) <= TOLERANCE * target
    assert width_field(dataclasses.replace(model, source="attention(heads=3)")).unit == 12


@pytest.mark.parametrize(
    "mixer, solved",
    [
        # keys, values and positions of 6 tokens, and the length: ((2 x 32 + 1) x 6 + 1) x 4 bytes
        ("attention", of("attention(window=6)")),
        ("attention(window=6)", SMALL),
        # E = 64 inner channels have 3 inputs and N entries: 64 x (3 + N) x 4 bytes
        ("mamba", of("mamba(state_dim=3)")),
        # d (d / 4 + 1) x 4 bytes, in widths that 4 heads divide
        ("linear_attention", of("linear_attention", dim=36)),
        # 64 x (3 + N) x 4 bytes in two layers of three, and the GRU's 32 x 4
        ("mamba,mamba,gru", of("mamba(state_dim=6),mamba(state_dim=6),gru", layers=3)),
    ],
)
def test_the_option_that_sizes_the_state_is_solved_and_else_the_width(mixer, solved):
    reference = dataclasses.replace(SMALL, layers=solved.layers)
    model = of(mixer, layers=solved.layers)
    assert match_state(model, LENGTH, reference) == solved


def test_a_state_that_no_option_comes_close_to_is_refused():
    message = (
        r"'mamba\(state_dim=16\)' cannot come within 10% of 4 B of state: model.dim=1 has 152 B"
    )
    with pytest.raises(UserError, match=message):
        match_state(of("mamba(state_dim=16)"), LENGTH, of("gru(hidden=1)"))


def test_a_state_that_makes_a_member_huge_is_refused():
    with pytest.raises(
        UserError, match=r"'gru\(hidden=391\)' matches .* at gru\(hidden\)=391 alone"
    ):
        match_state(of("gru"), LENGTH, SMALL)


@pytest.mark.parametrize("start", [1, 7, 300])
@pytest.mark.parametrize("target", [1, 100, 12345])
def test_the_nearest_value_is_found_from_anywhere(start, target):
    for measure in (lambda v: 3 * v + 2, lambda v: v * v / 4 + v, lambda v: 10 * min(v, 40)):
        found = nearest(Field("x", 1, lambda value: value, start), measure, target)
        errors = [abs(measure(value) - target) for value in range(1, 5000)]
        assert abs(measure(found) - target) == min(errors)


def test_widths_are_multiples_that_heads_divide():
    assert width_field(of("attention(heads=3)")).unit == 6  # rotary heads have an even width
    assert width_field(of("linear_attention,mamba", layers=2)).unit == 4


def test_the_least_width_with_enough_state():
    def measure(model):
        return model.dim

    field = width_field(of("linear_attention"))
    assert [least_enough(field, measure, target) for target in (60, 61, 63)] == [60, 64, 64]


def test_members_are_matched_by_what_the_comparison_says():
    base = Config(length=LENGTH, model=SMALL)
    by_state = match_members(base, SMALL.mixer, ["attention", "mamba"], "state")
    assert by_state["attention"].model == SMALL
    assert by_state["mamba"].model.mixer == "mamba(state_dim=3)"
    with pytest.raises(UserError, match="unknown config.match 'sate'; did you mean 'state'"):
        match_members(base, SMALL.mixer, ["gru"], "sate")
