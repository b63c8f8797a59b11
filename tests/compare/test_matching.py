"""Matching meets its tolerance for every mixer, on the model's own count, and says so where it
cannot.
"""

import dataclasses

import jax
import pytest

from configs import compare
from seqarch.compare import spec
from seqarch.compare.matching import TOLERANCE, count_parameters, match_depth, match_parameters
from seqarch.compare.members import match_members
from seqarch.config import Config, ModelConfig
from seqarch.errors import UserError
from seqarch.mixers import MIXERS
from tests.conftest import CORE
from tests.grids import slow_but
from tests.models import build

SMALL = ModelConfig(layers=3, dim=64, mlp=160)


@pytest.mark.parametrize("mixer", slow_but((*CORE, "mamba,gru"), [*sorted(MIXERS), "mamba,gru"]))
def test_every_mixer_comes_within_tolerance(mixer):
    target = count_parameters(dataclasses.replace(SMALL, mixer="attention"))
    model = match_parameters(dataclasses.replace(SMALL, mixer=mixer), target)
    assert dataclasses.replace(model, mlp=SMALL.mlp) == dataclasses.replace(SMALL, mixer=mixer)
    assert abs(count_parameters(model) - target) <= TOLERANCE * target


def test_count_is_that_of_the_arrays():
    model = build(SMALL)
    assert count_parameters(SMALL) == sum(leaf.size for leaf in jax.tree.leaves(model))


def test_matching_itself_changes_nothing():
    model = dataclasses.replace(SMALL, mlp=256)
    assert match_parameters(model, count_parameters(model)) == model


def test_round_widths_are_preferred_where_they_are_close_enough():
    wide = ModelConfig(layers=2, dim=128, mlp=4096)
    assert match_parameters(wide, count_parameters(dataclasses.replace(wide, mlp=4099))).mlp == 4096


def test_too_few_parameters_names_the_member_and_its_smallest_count():
    smallest = count_parameters(dataclasses.replace(SMALL, mlp=1))
    with pytest.raises(
        UserError, match=f"'mamba' has {smallest:,} parameters.*more than the 10,000"
    ):
        match_parameters(SMALL, 10_000)


@pytest.mark.slow
def test_encoder_decoders_have_as_many_parameters_as_a_language_model():
    given = spec.read(compare.get_config("seq2seq").to_dict())
    members = [member for member in given.members if "encdec" in member]
    found = match_members(given.base, given.reference, members)
    target = count_parameters(given.base.model)
    assert len(found) == 3 and all(config.model.encodes for config in found.values())
    for config in found.values():
        assert abs(count_parameters(config.model) - target) <= TOLERANCE * target


def test_depth_is_that_of_the_longer_of_two_patterns():
    model = dataclasses.replace(SMALL, mixer="gru", kind="encdec", encoder="gru,mamba")
    found = match_depth(model, count_parameters(dataclasses.replace(model, layers=4)))
    assert found.layers == 4


@pytest.mark.parametrize("match", ["params", "state", "flops"])
def test_an_encoder_decoder_on_a_task_without_a_source_is_refused(match):
    with pytest.raises(UserError, match="the member 'a': .* the task text has no source"):
        match_members(Config(), "gru", ("a = gru; kind=encdec; encoder=gru",), match)


def test_a_member_that_cannot_be_matched_is_named():
    with pytest.raises(UserError, match="the member 'a': 'mamba' has .* more than the"):
        match_members(Config(model=ModelConfig(mlp=8)), "attention", ("a = mamba",))


def test_too_coarse_a_width_is_refused():
    deep = ModelConfig(mixer="gru", layers=40, dim=8)
    between = count_parameters(dataclasses.replace(deep, mlp=1)) + 40 * 3 * 8 // 2
    with pytest.raises(UserError, match="each unit of model.mlp adds 960"):
        match_parameters(deep, between)
