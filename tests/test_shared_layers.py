"""Layers that are shared: one set of parameters, and a state at each place."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqarch.compare.matching import match_depth, match_parameters
from seqarch.compare.solving import flops_per_token, match_state
from seqarch.config import Config, MeshConfig, ModelConfig, resolve, with_forms
from seqarch.config.forms import with_recorded_forms
from seqarch.costs.memory import state_bytes
from seqarch.errors import UserError
from seqarch.model import count_parameters
from seqarch.patterns import Layer, parse_pattern
from seqarch.training import sharded_step, sharding
from seqarch.training.checkpoint import Checkpointer, named
from seqarch.training.sharding import shardings
from tests.grids import slow_but
from tests.models import build, noisy, stepped

PATTERNS = {  # with the number of sets of parameters that their layers have
    "hybrid": ("gru,shared attention(window=4)", 5, 4),
    "all": ("shared gru", 3, 1),
    "two": ("shared gru,shared attention(window=4),gru,shared gru", 8, 4),
    "table": ("shared attention(relative=4,rope=None),attention(relative=4,rope=None)", 6, 4),
}


def config(kind: str, *, shared: bool = True, **changes) -> ModelConfig:
    mixer, layers, _ = PATTERNS[kind]
    fields = dict(mixer=mixer if shared else mixer.replace("shared ", ""), layers=layers)
    return ModelConfig(**(fields | dict(dim=16, mlp=16) | changes))


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 257, (2, 12))


def near(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), a, b)


@pytest.mark.parametrize("kind", slow_but({"hybrid"}, PATTERNS))
def test_training_prefill_and_steps_are_one_function(kind):
    model = build(config(kind))
    expected, served = jax.jit(lambda model: model(tokens()))(model), model.serving()

    hidden, states = served.prefill(tokens(), served.init_state(2, 12))
    near(served.logits(hidden), expected)
    found, after = stepped(served, tokens(), served.init_state(2, 12))
    near(found, expected)
    near(after, states)


@pytest.mark.slow
@pytest.mark.parametrize("kind, remat", [("hybrid", False), ("two", True)])
def test_the_gradient_of_a_shared_layer_is_the_sum_of_those_at_its_places(kind, remat):
    """An unrolled model of as many blocks has the same outputs, and a gradient for each block."""
    given = config(kind, remat=remat)
    model, layers = noisy(build(given)), tuple(given.stack)
    apart = build(config(kind, shared=False)).unstack()
    apart.tail, apart.norm = nnx.List(model.blocks()), model.norm
    apart.embedding, apart.head = model.embedding, model.head
    loss = lambda model: jax.nn.logsumexp(2 * model(tokens()), axis=-1).sum()
    value, gradient = jax.jit(jax.value_and_grad(loss))(model)
    expected, parts = jax.jit(jax.value_and_grad(loss))(apart)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for index, layer in enumerate(given.stack.shared):
        places = [each for each, at in zip(parts.tail, layers, strict=True) if at == layer]
        assert len(places) > 1
        total = jax.tree.map(lambda *each: sum(each), *places)
        check = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)
        jax.tree.map(check, gradient.shared_blocks[index], total)


@pytest.mark.parametrize("kind", slow_but({"hybrid"}, PATTERNS))
def test_a_shared_layer_counts_once_in_parameters_and_at_each_place_in_costs(kind):
    given, plain = config(kind), config(kind, shared=False)
    model, spared, seen = build(given), 0, set()
    for block, layer in zip(model.unstack().tail, given.stack, strict=True):
        if layer.shared and layer in seen:
            spared += sum(leaf.size for leaf in jax.tree.leaves(model.shared_blocks[block.index]))
        seen.add(layer)
    assert count_parameters(given) == count_parameters(plain) - spared
    blocks = len(model.shared_blocks) + sum(not layer.shared for layer in given.stack)
    assert spared > 0 and blocks == PATTERNS[kind][2]
    assert state_bytes(given, 12) == state_bytes(plain, 12)
    assert flops_per_token(given, 12) == flops_per_token(plain, 12)


@pytest.mark.slow
def test_a_shared_block_is_split_over_devices_and_saved_once(tmp_path):
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    given = resolve(Config(batch=4, length=8, model=config("hybrid")), mesh)
    state = sharded_step.init_state(given, mesh, jax.random.key(0))
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
        restored = checkpoints.restore(sharded_step.abstract_state(given, mesh))
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    names = [name for name in named(state.model) if name.endswith("q.kernel")]
    assert names == ["shared_blocks.0.mixer.q.kernel"]
    kernel = shardings(state.model, mesh).shared_blocks[0].mixer.q.kernel
    assert kernel.get_value().spec == jax.sharding.PartitionSpec("fsdp", None)


@pytest.mark.slow
def test_members_with_shared_layers_are_matched():
    given = config("hybrid", dim=64)
    target = count_parameters(dataclasses.replace(given, mixer="gru"))
    found = match_parameters(given, target)
    assert abs(count_parameters(found) / target - 1) < 0.01 and found.mlp > given.mlp
    deep = match_depth(given, 3 * count_parameters(given))
    assert deep.layers > given.layers
    with pytest.raises(UserError, match="'shared gru' .* cannot come within 10%"):
        match_depth(config("all"), 10 * count_parameters(config("all")))
    reference = dataclasses.replace(given, mixer="shared attention(window=8)")
    wide = match_state(dataclasses.replace(given, mixer="shared attention"), 64, reference)
    assert wide.mixer == "shared attention(window=8)"


def test_forms_keep_what_is_shared():
    given = ModelConfig(mixer="mamba,shared  attention( window=8, heads=2 )", layers=4)
    assert given.stack.shared == (Layer("attention", (("heads", 2), ("window", 8)), shared=True),)
    resolved = with_forms(given, "cpu")
    layer = parse_pattern(resolved.mixer)[1]
    assert layer.shared and "method" in dict(layer.options)
    assert with_recorded_forms(given, dict(mixer=resolved.mixer)).mixer == resolved.mixer


@pytest.mark.parametrize("pattern", ["gru shared", "shared", "shared shared gru", "share gru"])
def test_what_cannot_be_read_is_told_in_one_line(pattern):
    with pytest.raises(
        UserError, match="cannot read the layer .* 'shared' before|'shared' stands before a layer"
    ):
        parse_pattern(pattern)


def test_packed_documents_are_separate():
    model = build(config("hybrid"))
    starts = jnp.zeros((2, 12), bool).at[:, 5].set(True)
    call = jax.jit(lambda model, tokens, starts: model(tokens, starts))
    alone = call(model, np.roll(tokens(), -5, axis=1), jnp.zeros_like(starts))
    near(call(model, tokens(), starts)[:, 5:], alone[:, :7])
