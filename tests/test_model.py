"""The language model: one function in three forms, whose program does not grow with depth."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params
from numpy.testing import assert_allclose

from seqarch.config import ModelConfig
from seqarch.errors import UserError
from seqarch.mixers import resolve_mixer
from seqarch.model import count_parameters, make_model
from seqarch.ops.kernels.call import interpreted
from seqarch.training.checkpoint import named
from tests import models
from tests.conftest import CORE
from tests.models import stepped

TINY = ModelConfig(mixer="gru,attention(window=4)", layers=2, dim=16, mlp=16)


def build(**changes):
    return models.build(dataclasses.replace(TINY, **changes))


call = jax.jit(lambda model, tokens, starts=None, key=None: model(tokens, starts, key=key))


@pytest.fixture(scope="module")
def tokens():
    return jnp.asarray(np.random.default_rng(0).integers(0, 257, (2, 12)))


@pytest.mark.parametrize("conv", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_training_prefill_and_steps_are_one_function(tokens, conv):
    model = build(conv=conv, layers=5)
    expected = call(model, tokens)

    def prefilled(model):
        return model.logits(model.prefill(tokens, model.init_state(2, 12))[0])

    def decoded(model):
        step = lambda states, token: model.step(token, states)[::-1]
        return jax.lax.scan(step, model.init_state(2, 12), tokens.T)[1].swapaxes(0, 1)

    np.testing.assert_allclose(jax.jit(prefilled)(model), expected, atol=1e-5)
    np.testing.assert_allclose(jax.jit(decoded)(model.unstack()), expected, atol=1e-5)


def _stacked(jaxpr):
    """Yields the shapes that loops over five layers stack, kernels aside."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan" and eqn.params["length"] == 5:
            yield from (x.aval.shape for x in eqn.outvars[eqn.params["num_carry"] :])
        elif eqn.primitive.name != "pallas_call":
            for inner in jaxprs_in_params(eqn.params):
                yield from _stacked(inner)


@pytest.mark.slow
def test_a_scan_over_kernels_keeps_their_results_and_what_enters_each_layer(tokens):
    """The rest is computed again, and gives the same gradients."""
    loss = lambda model: (model(tokens) ** 2).sum()
    plain, kernels = (
        build(mixer=f"attention(method={method})", layers=5, mlp=48)
        for method in ("blockwise", "pallas")
    )
    with interpreted():
        found = jax.jit(jax.grad(loss))(kernels)
        stacked = list(_stacked(jax.make_jaxpr(jax.grad(loss))(kernels).jaxpr))
    expected = jax.jit(jax.grad(loss))(plain)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert_allclose(ours, theirs, atol=1e-5 * jnp.abs(theirs).max())
    whole = [shape for shape in stacked if shape[:3] == (5, *tokens.shape)]
    assert whole == [(5, *tokens.shape, 16)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_model_that_serves_is_the_same_function_to_the_bit(tokens, dtype):
    mixers = [*CORE, "linear_attention(decay=data)", "attention(qk_norm=True)"]
    model = build(mixer=",".join(mixers), layers=len(mixers), dtype=dtype, conv=3)
    # with noise, so that every parameter has digits that a cast drops
    model = jax.tree.map(jnp.asarray, models.noisy(model).unstack())
    served = model.serving()
    leaves = named(served)
    if dtype == "bfloat16":
        results = [stepped(each, tokens[:, :2], each.init_state(2, 2)) for each in (model, served)]
        jax.tree.map(np.testing.assert_array_equal, *results)
        kept = {
            ".".join(name.split(".")[-2:])
            for name, leaf in leaves.items()
            if leaf.dtype != jnp.bfloat16
        }
        recurrences = {
            f"mixer.{name}"
            for name in ("bias", "gate_bias", "conv", "delta", "delta_bias", "log_A", "D")
        }
        norms = {f"{name}.scale" for name in ("norm", "mixer_norm", "mlp_norm", "q_norm", "k_norm")}
        assert kept == {"gate.kernel"} | recurrences | norms
    else:
        assert all(leaf is leaves[name] for name, leaf in named(model).items()), (
            "copies arrays that need no cast"
        )


def test_packed_documents_are_separate(tokens):
    model = build()
    starts = jnp.zeros((2, 12), bool).at[:, 5].set(True)
    packed, alone = (
        call(model, tokens, starts),
        call(model, jnp.roll(tokens, -5, axis=1), jnp.zeros_like(starts)),
    )
    np.testing.assert_allclose(packed[:, 5:], alone[:, :7], atol=1e-5)


@pytest.mark.slow
def test_the_program_does_not_grow_with_depth(tokens):
    def program(layers):
        gradient = jax.jit(jax.grad(lambda model: model(tokens).sum()))
        return len(gradient.lower(build(layers=layers)).as_text().splitlines())

    assert program(24) == program(8)


@pytest.mark.slow
def test_a_few_layers_train_in_the_same_memory_however_the_pattern_says_them():
    def temporaries(mixer):
        gradient = jax.jit(jax.grad(lambda model: model(jnp.zeros((4, 512), jnp.int32)).sum()))
        return (
            gradient.lower(build(mixer=mixer, layers=3))
            .compile()
            .memory_analysis()
            .temp_size_in_bytes
        )

    assert temporaries("gru") == pytest.approx(temporaries("gru,gru,gru"), rel=0.02)


@pytest.mark.slow
def test_remat_changes_memory_alone(tokens):
    def gradient(**changes):
        compiled = (
            jax.jit(jax.grad(lambda model: model(tokens).sum())).lower(build(**changes)).compile()
        )
        return compiled.memory_analysis().temp_size_in_bytes, compiled(build(**changes))

    (kept, plain), (recomputed, remat) = gradient(layers=8), gradient(layers=8, remat=True)
    assert recomputed < 0.8 * kept
    plain, remat = (jax.tree.leaves(gradients) for gradients in (plain, remat))
    for a, b in zip(plain, remat, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, float(jnp.abs(a).max())))


@pytest.mark.slow
def test_projections_to_the_residual_stream_shrink_with_depth():
    deep, shallow = build(layers=8), build(layers=2)
    spread = lambda block: float(block.mixer.out.kernel[...].std() / block.mlp.up.kernel[...].std())
    ratio = spread(shallow.blocks()[0]) / spread(deep.blocks()[0])
    assert 1.7 < ratio < 2.3  # sqrt(8 / 2)


@pytest.mark.slow
def test_the_first_prediction_is_uniform(tokens):
    model = build(dim=64)
    loss = -jax.nn.log_softmax(call(model, tokens)).mean()
    assert abs(loss - jnp.log(257)) < 0.02


@pytest.mark.slow
def test_dropout_needs_a_key_and_each_key_is_another_noise(tokens):
    model = build(dropout=0.5)
    plain, a, b = (
        call(model, tokens),
        *(call(model, tokens, key=jax.random.key(seed)) for seed in (0, 1)),
    )
    assert (plain == call(build(), tokens)).all() and not (a == b).all() and not (a == plain).all()
    assert (call(build(), tokens, key=jax.random.key(0)) == plain).all()


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_and_logits_in_float32(tokens):
    model = build(dtype="bfloat16", mixer="mamba,attention")
    assert {leaf.dtype for leaf in jax.tree.leaves(model)} == {jnp.dtype("float32")}
    assert call(model, tokens).dtype == jnp.float32
    states = jax.eval_shape(lambda: model.init_state(1, 8))
    assert (states[0].h.dtype, states[0].conv.dtype, states[1].k.dtype) == (
        jnp.float32,
        jnp.bfloat16,
        jnp.bfloat16,
    )
    np.testing.assert_allclose(
        call(model, tokens), call(build(mixer="mamba,attention"), tokens), atol=0.1
    )


@pytest.mark.slow
def test_gradients_in_bfloat16_are_near_those_in_float32(tokens):
    """The embedding's too, whose rows gather thousands of tokens: summed in bfloat16 they would be
    off by 40 %.
    """
    many = jnp.tile(tokens % 4, (8, 64))

    def gradients(dtype):
        loss = lambda model: jnp.take_along_axis(
            jax.nn.log_softmax(model(many)), many[..., None], axis=-1
        ).mean()
        return jax.tree.leaves(
            jax.jit(jax.grad(loss))(
                build(mixer="linear_attention(decay=data)", layers=1, dtype=dtype)
            )
        )

    for a, b in zip(gradients("float32"), gradients("bfloat16"), strict=True):
        assert jnp.linalg.norm(a - b) < 0.05 * jnp.linalg.norm(a) + 1e-6


@pytest.mark.parametrize("token", [-1, 257])
def test_tokens_outside_the_vocabulary_are_refused(token):
    model = models.build(ModelConfig("gru", layers=1, dim=8, mlp=0))
    with pytest.raises(UserError, match=f"token {token}; the model's are 0 to 256"):
        model(jnp.array([[1, token]]), jnp.zeros((1, 2), bool))
    with pytest.raises(UserError, match="the model's are 0 to 256"):
        model.step(jnp.array([token]), model.init_state(1, 4))
    for shape in ((0, 3), (2, 0)):
        with pytest.raises(UserError, match="give at least one of them"):
            model(jnp.zeros(shape, int))


@pytest.mark.slow
def test_a_document_that_no_slot_keeps_cannot_go_on():
    """A cache without slots serves one call; a second one gives NaN for rows that go on."""
    make = resolve_mixer("attention")
    mixer = jax.jit(lambda: make(8, heads=2, dtype=jnp.float32, rngs=nnx.Rngs(0)))()
    x, prefill = jax.random.normal(jax.random.key(0), (2, 3, 8)), jax.jit(make.prefill)
    first, state = prefill(mixer, x, mixer.init_state(2, 0))
    assert jnp.isfinite(first).all()
    starts = jnp.array([[False] * 3, [True, False, False]])
    second, _ = prefill(mixer, x, state, starts)
    assert jnp.isnan(second[0]).all()
    np.testing.assert_array_equal(second[1], first[1])


def test_a_tied_head_is_the_embedding_and_logits_are_bounded():
    config = ModelConfig("gru", layers=1, dim=8, mlp=8, vocab=6, tied=True)
    config = dataclasses.replace(config, embedding_scale=3.0, logits_cap=0.5)
    model = models.build(config)
    assert model.head is None
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8)), jnp.float32)
    plain = x @ model.embedding[...].T
    assert_allclose(model.logits(x), 0.5 * jnp.tanh(plain / 0.5), rtol=1e-5, atol=1e-6)
    assert_allclose(model._embed(np.array([4])), 3 * model.embedding[...][4:5])
    bare = dataclasses.replace(config, tied=False)
    assert count_parameters(bare) - count_parameters(config) == 6 * 8


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(norm_eps=0.0), "model.norm_eps is 0.0"),
        (dict(embedding_scale=0.0), "a finite factor other than 0"),
        (dict(logits_cap=-1.0), "model.logits_cap is -1.0"),
        (dict(mlp_activation="gello"), "did you mean 'gelu'"),
    ],
)
def test_values_of_a_model_that_cannot_be_are_a_line(fields, words):
    with pytest.raises(UserError, match=words):
        ModelConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(mixer="gru(hidden=200000000)"), "no device holds a matrix of .*, as in gru"),
        (dict(mixer="mamba2(expand=2147483647)"), "no device holds a matrix of .*, as in mamba2"),
        (dict(mixer="gated_deltanet(expand_key=1e999)"), "infinity to integer, in gated_deltanet"),
        (dict(mixer="kda(conv_width=257)"), "conv_width is 257; give a number from 1 to 256"),
        (dict(conv=300), "model.conv is 300; give a number from 1 to 256"),
    ],
)
def test_sizes_beyond_any_device_are_a_line(fields, words):
    with pytest.raises(UserError, match=words):
        count_parameters(ModelConfig(**(dict(mixer="gru", layers=1, dim=8, vocab=5) | fields)))


def test_a_convolution_in_a_mixer_can_be_left_out_of_a_pattern():
    config = ModelConfig(mixer="kda(conv_width=None)", layers=1, dim=8, vocab=5)
    (state,) = jax.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0)).init_state(2, 9))
    assert state.conv.shape == (2, 0, 24)
