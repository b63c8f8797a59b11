"""The encoder-decoder: one function in three forms, whatever the padding of its source."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import seq2seq
from seqarch.block_stack import UNROLLED
from seqarch.config import Config, ModelConfig, parse
from seqarch.costs.memory import tree_bytes
from seqarch.encoder_decoder import EncoderDecoder
from seqarch.errors import UserError
from seqarch.mixers.both_ways import reverse
from seqarch.model import make_model
from seqarch.tasks import make_task
from seqarch.training.checkpoint import named
from tests import models
from tests.grids import slow_but
from tests.models import stepped

T, S, VOCAB = 6, 7, 20
KINDS = {
    "cross-attention": dict(mixer="gru", encoder="attention(causal=False)"),
    "summary": dict(mixer="attention,gru", encoder="gru", source="summary"),
    "T5": dict(
        mixer="attention(relative=8,rope=None)",
        encoder="attention(relative=8,rope=None,causal=False)",
    ),
}

QUICK = slow_but({"summary"}, KINDS)


def config(**changes) -> ModelConfig:
    sizes = dict(kind="encdec", mixer="gru", encoder="gru", layers=2, dim=16, mlp=16, vocab=VOCAB)
    return ModelConfig(**(sizes | changes))


def build(kind: str) -> EncoderDecoder:
    return models.build(config(**KINDS[kind]))


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Returns sources of 7, 4 and no tokens, and targets."""
    rng = np.random.default_rng(0)
    source, tokens = rng.integers(0, VOCAB - 1, (3, S)), rng.integers(0, VOCAB - 1, (3, T))
    source[1, 4:], source[2], tokens[:, 0] = -1, -1, VOCAB - 1
    return source, tokens


call = jax.jit(lambda model, tokens, source: model(tokens, source=source))
encode = jax.jit(lambda model, source: model.encode(source, T))


def prefilled(model, tokens, states, lengths):
    hidden, states = model.prefill(tokens, states, lengths=lengths)
    return model.logits(hidden), states


@jax.jit
def graded(model, tokens, source):
    """Returns the gradient of a loss, and the logits."""

    def loss(model):
        logits = model(tokens, source=source)
        return jax.nn.logsumexp(2 * logits).sum(), logits

    return jax.grad(loss, has_aux=True)(model)


def near(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), a, b)


@pytest.mark.parametrize("kind", QUICK)
def test_training_prefill_and_steps_are_one_function(kind):
    model, (source, tokens) = build(kind), rows()
    expected, start = call(model, tokens, source), encode(model, source)
    logits, after = prefilled(model, tokens, start, np.full(3, T))
    near(logits, expected)
    found, end = stepped(model.serving(), tokens, start)
    near(found, expected)
    near(end, after)
    part, between = prefilled(model, tokens, start, np.array([2, 0, 5]))
    tail = jnp.stack([jnp.roll(row, -n) for row, n in zip(tokens, (2, 0, 5), strict=True)])
    rest, end = prefilled(model, tail, between, T - np.array([2, 0, 5]))
    near(end, after)
    near(rest[1], expected[1])
    near(part[2, :5], expected[2, :5])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_padding_of_the_source_changes_nothing(kind):
    model, (source, tokens) = build(kind), rows()
    padded = np.full((3, S + 4), -1)
    padded[:, :S] = source
    gradient, logits = graded(model, tokens, source)
    near(graded(model, tokens, padded), (gradient, logits))


@pytest.mark.parametrize("kind", QUICK)
def test_every_token_of_the_source_counts_and_every_parameter_has_a_gradient(kind):
    model, (source, tokens) = build(kind), rows()
    whole = call(model, tokens, source)
    for place in range(S):
        other = source.copy()
        other[0, place] = (other[0, place] + 1) % (VOCAB - 1)
        changed = abs(call(model, tokens, other) - whole).max(axis=(1, 2))
        assert changed[0] > 1e-6 and (changed[1:] == 0).all()
    for leaf in jax.tree.leaves(graded(model, tokens, source)[0]):
        assert float(abs(leaf).max()) > 0


def test_deep_stacks_are_scanned_and_are_the_same_function():
    changes = dict(mixer="min_gru", encoder="min_gru", layers=UNROLLED + 1, dim=8, mlp=0)
    model = jax.jit(lambda: make_model(config(**changes), rngs=nnx.Rngs(0)))()
    source, tokens = rows()
    near(call(model, tokens, source), call(model.unstack(), tokens, source))


def test_a_summary_is_of_one_size_and_cross_attention_is_not():
    size = lambda kind, source: tree_bytes(
        jax.eval_shape(lambda model: model.init_state(1, T, source), build(kind))
    )
    assert size("summary", 10) == size("summary", 1000)
    layers, dim, bytes_each = 2, 16, 4
    grown = size("cross-attention", 1000) - size("cross-attention", 10)
    assert grown == 990 * (layers * 2 * dim + layers) * bytes_each


def test_the_state_of_encoding_has_the_shapes_of_the_empty_one():
    for kind in KINDS:
        model = build(kind).serving()
        empty = jax.eval_shape(lambda model: model.init_state(3, T, S), model)
        found = jax.eval_shape(lambda model: model.encode(rows()[0], T), model)
        assert empty == found
        assert jax.tree.structure(empty) == jax.tree.structure(
            model.state_axes, is_leaf=lambda x: type(x) is tuple and isinstance(x[0], str)
        )


def test_each_stack_has_one_table_of_relative_positions():
    model = build("T5")
    tables = [name for name in named(model) if "table" in name or "shared" in name]
    assert tables == ["encoder.shared", "shared"]
    assert len(named(model.serving())) == len(named(model.unstack()))
    for stack in (model, model.encoder):
        for block in stack.blocks():
            np.testing.assert_array_equal(block.mixer.table[...], stack.shared[...])


def test_reversing_leaves_padding_behind():
    x = jnp.arange(8.0).reshape(2, 4, 1)
    assert reverse(x, np.array([3, 0]))[..., 0].tolist() == [[2, 1, 0, 3], [4, 5, 6, 7]]
    assert reverse(x, None)[..., 0].tolist() == [[3, 2, 1, 0], [7, 6, 5, 4]]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (dict(mixer="attention(causal=False)"), "sees later tokens and cannot generate any"),
        (dict(mixer="gru,attention(causal=False)", source="summary"), "give it in model.encoder"),
        (dict(encoder="gru,gru,gru"), "model.encoder 'gru,gru,gru' names 3 layers"),
        (dict(encoder=""), "model.kind is 'encdec', which needs an encoder"),
        (dict(kind="lm"), "model.kind is 'lm', which has no encoder, and model.encoder is 'gru'"),
        (dict(kind="endec"), "unknown model.kind 'endec'; did you mean 'encdec'?"),
        (dict(source="sumary"), "unknown model.source 'sumary'; did you mean 'summary'?"),
        (dict(source="attention(rope=3)"), "unknown option of model.source attention 'rope'"),
        (dict(source="attention(heads=3)"), "model.source attention: dim 16, heads 3"),
        (dict(source="attention(heads=2.0)"), "model.source attention(heads=2.0): expected int"),
        (dict(source="summary(heads=2)"), "option of model.source summary 'heads'; there is none"),
        (dict(encoder="attention(causal=False,window=3)"), "window=None and forget=False"),
        (
            dict(mixer="attention(relative=8,rope=None),attention(relative=4,rope=None)"),
            "layers share one table of relative positions",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(changes, complaint):
    with pytest.raises(UserError) as error:
        jax.eval_shape(lambda: make_model(config(**changes), rngs=nnx.Rngs(0)))
    assert complaint in str(error.value) and "\n" not in str(error.value)


def test_the_encoder_of_a_config_has_the_layers_of_its_decoder():
    encoder = lambda mixer: seq2seq.get_config(f"reverse,{mixer}").model.encoder
    assert encoder("gru,attention(window=4)") == "gru,attention(window=4)"
    assert encoder("attention(causal=True,window=None)") == "attention(causal=False,window=None)"


def test_an_encoder_decoder_needs_a_source():
    for task in ("text", "parity"):
        with pytest.raises(UserError, match="the task .* has no source that an encoder could read"):
            make_task(Config(task=task, model=config(), evals=dict(memory={})))
    model = build("summary")
    with pytest.raises(UserError, match="row 1 of the source has a token behind -1"):
        model.encode(np.array([[1, 2], [-1, 2]]), T)
    given = parse(dict(model=dict(kind="encdec", encoder="gru")))
    assert given.model.encodes and not Config().model.encodes
