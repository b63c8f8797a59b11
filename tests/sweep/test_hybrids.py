"""Presets of hybrids are configs of models that exist, and their sweep places attention."""

import jax
import jax.numpy as jnp
import pytest

from configs import hybrids
from configs.sweeps import hybrids as sweep
from seqarch.config import parse
from seqarch.config.values import with_fields
from seqarch.costs.memory import state_size
from seqarch.costs.programs import serving_model
from seqarch.errors import UserError
from seqarch.mixers import MIXERS
from seqarch.mixers.attention import KVCache
from seqarch.patterns import options_of, read_pattern
from seqarch.sweep import hyper
from seqarch.training.checkpoint import named


def missing(preset):
    """Says whether a preset names a mixer or an option that is not there."""
    layers = read_pattern(hybrids.PRESETS[preset]["mixer"])
    return any(
        layer.mixer not in MIXERS or dict(layer.options).keys() - options_of(layer.mixer).keys()
        for layer in layers
    )


@pytest.mark.parametrize("preset", hybrids.PRESETS)
def test_a_preset_is_a_model(preset):
    if missing(preset):
        pytest.skip("it has a mixer or an option that is not there")
    config = parse(hybrids.get_config(preset))
    stack = config.model.stack
    assert len(list(stack)) == config.model.layers and not stack.tail
    model = serving_model(config.model)
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    assert jax.eval_shape(lambda model, x: model(x), model, tokens).shape == (1, 8, 257)
    grows = state_size(model, 4096).bytes > state_size(model, 256).bytes
    assert grows == (preset in ("jamba", "qwen3_next", "zamba"))


def test_zamba_has_one_attention_block_and_a_cache_for_each_place():
    model = serving_model(parse(hybrids.get_config("zamba")).model)
    names = [name for name in named(model) if name.endswith("mixer.q.kernel")]
    assert names == ["shared_blocks.0.mixer.q.kernel"]
    states = jax.eval_shape(lambda model: model.init_state(1, 8), model)
    assert [isinstance(state, KVCache) for state in states] == ([False] * 6 + [True]) * 2


def test_an_unknown_preset_is_refused():
    with pytest.raises(UserError, match="preset of configs/hybrids.py.*griffin"):
        hybrids.get_config("grifin")


def test_the_sweep_places_attention_at_every_share():
    runs = sweep.get_hyper(hyper, "mqar,mamba")
    patterns = dict.fromkeys(run["model.mixer"] for run in runs)
    assert len(runs) == 6 * len(patterns) and len(patterns) == len(sweep.PLACES)
    assert {pattern.count("attention") for pattern in patterns} == {0, 1, 2, 4}
    assert "attention,mamba,attention,mamba" in patterns
    base = parse(sweep.get_config("mqar,mamba"))
    assert all(len(list(with_fields(base, run).model.stack)) == 4 for run in runs)


def test_a_sweep_over_a_pattern_of_several_mixers_is_refused():
    with pytest.raises(UserError, match="'mamba,gru' has several"):
        sweep.get_config("mqar,mamba,gru")
