"""Imported models compute what transformers computes: whole prompts, single steps, packed texts.

logits.json has what transformers 5.23.0 computed; reference.py wrote it.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from seqarch.costs.hf.families import describe
from seqarch.model import LanguageModel, count_parameters
from seqarch.pretrained.families import FAMILIES, read_import
from seqarch.pretrained.filling import abstract_model, filled
from tests.grids import slow_but
from tests.models import stepped
from tests.pretrained.cases import CASES, LENGTH, draw, tokens

EXPECTED = json.loads((Path(__file__).parent / "logits.json").read_text())


def drawn(name):
    return {each: draw(each, tuple(shape)) for each, shape in EXPECTED[name]["weights"].items()}


def load(values, weights):
    """Returns the model of a config and weights."""
    imported = read_import(values)
    arrays = filled(imported.config, imported.outside, weights, "here")
    abstract = abstract_model(imported.config)
    return jax.tree.unflatten(jax.tree.structure(abstract), map(jnp.asarray, arrays.values()))


def close(found, expected):
    scale = np.abs(expected).max()
    assert_allclose(np.asarray(found), expected, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("name", slow_but({"llama", "mamba2"}, CASES))
def test_logits_are_those_of_transformers(name):
    model, given = load(CASES[name], drawn(name)), tokens()
    expected = np.array(EXPECTED[name]["logits"], np.float32)
    close(jax.jit(LanguageModel.__call__)(model, given), expected)
    states = model.init_state(*given.shape)
    close(stepped(model, given, states)[0], expected)
    half = LENGTH // 2
    for part in (slice(half), slice(half, LENGTH)):
        hidden, states = model.prefill(given[:, part], states)
        close(model.logits(hidden), expected[:, part])


def test_every_family_is_compared_with_transformers():
    assert {case["model_type"] for case in CASES.values()} == set(FAMILIES)
    assert EXPECTED.keys() == CASES.keys()
    assert {np.shape(each["logits"])[1] for each in EXPECTED.values()} == {LENGTH}


@pytest.mark.parametrize("name", CASES)
def test_parameters_are_as_many_as_planned(name):
    case, planned = CASES[name], describe(CASES[name]).params
    if case["model_type"] == "mamba2" and case.get("use_bias"):
        planned -= case["num_hidden_layers"] * case["num_heads"]  # of two biases of steps, the sum
    assert count_parameters(read_import(case).config) == planned


@pytest.mark.parametrize("name", CASES)
def test_transformers_still_computes_them(name):
    pytest.importorskip("transformers")
    from tests.pretrained import reference

    model, shapes = reference.build(CASES[name])
    assert shapes == EXPECTED[name]["weights"]
    close(reference.logits(model, tokens()).numpy(), np.array(EXPECTED[name]["logits"]))
