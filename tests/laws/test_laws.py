"""The law holds for every mixer, and `check` notices when it does not."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seqarch import laws, ops
from seqarch.mixers import MIXERS, resolve_mixer
from seqarch.mixers.gru import GRU, GRUState
from seqarch.mixers.linear_attention import LinearAttention
from seqarch.mixers.short_conv import ShortConv
from seqarch.ops.linear_attention import Tokens
from seqarch.patterns import parse_pattern

WIDTH = 16
# Beside every mixer with its defaults, mixers with options. A line here is all that one more needs.
VARIANTS = (
    "attention(kv_heads=2,qk_norm=True,window=5,block=8,rope=None,alibi=True)",
    "attention(kv_heads=2,forget=True,gated=True,rope=None)",
    "attention(window=5,sink=2,forget=True)",
    "linear_attention(decay=data,method=parallel)",
    "linear_attention(feature_map=taylor,feature_dim=2,decay=data)",
    "mamba(state_dim=4,method=chunked,bias=True,conv_bias=False)",
)
# Options that change nothing about long rows, or make short ones do what long ones do by default.
SHORT_VARIANTS = (
    "attention(head_dim=8,bias=True,out_bias=True,rope_share=0.5,rope_scaling=linear:2)",
    "attention(kv_heads=2,rope=None,relative=8)",
    "deltaproduct(decay=data)",
    "linear_attention(feature_map=identity,normalise=False)",
    "lsh(buckets=2,rounds=3,window=2,method=sorted)",
    "mamba2(state_dim=4,head_dim=8,groups=2,bias=True,conv_bias=False)",
    "nsa(kv_heads=2,size=4,chosen=4,window=3)",
    "rg_lru(unit_start=True)",
    "sparse(window=3,globals=2,stride=4,kv_heads=2)",
)
LONG = {"bfloat16", "bfloat16_step", "long"}  # clauses about long rows
QUICK = ("linear_attention",)


def negative_eigenvalues():
    """Every mixer that can turn the sign of its state, where it does not by default."""
    for name in MIXERS:
        option = inspect.signature(resolve_mixer(name).__init__).parameters.get(
            "negative_eigenvalues"
        )
        if option and not option.default:
            yield f"{name}(negative_eigenvalues=True)"


def marks_of(pattern):
    return () if pattern in QUICK else (pytest.mark.slow,)


def constructor(pattern):
    """The constructor of the mixer of a pattern of one layer."""
    (layer,) = parse_pattern(pattern)
    return partial(resolve_mixer(layer.mixer), WIDTH, **dict(layer.options))


@pytest.fixture(autouse=True, scope="module")
def released():
    """Programs of dozens of mixers take gigabytes, and no other test runs them."""
    yield
    jax.clear_caches()


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(pattern, marks=marks_of(pattern))
        for pattern in (*MIXERS, *VARIANTS, *negative_eigenvalues())
    ],
)
def test_the_law_holds(pattern):
    laws.check(constructor(pattern), dim=WIDTH)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", SHORT_VARIANTS)
def test_the_law_holds_on_short_rows(pattern):
    for clause in laws.clauses(constructor(pattern), dim=WIDTH):
        if clause.name not in LONG:
            clause.test()


@pytest.mark.slow
def test_the_law_holds_after_a_convolution():
    laws.check(
        lambda dtype, rngs: ShortConv(
            GRU(WIDTH, hidden=24, dtype=dtype, rngs=rngs), WIDTH, width=4, dtype=dtype, rngs=rngs
        ),
        dim=WIDTH,
    )


class Forgetful(GRU):
    """Takes a document's start for nothing."""

    def prefill(self, x, state, starts=None, lengths=None):
        return super().prefill(x, state, None, lengths)


class Padded(LinearAttention):
    """Consumes padding."""

    def prefill(self, x, state, starts=None, lengths=None):
        return super().prefill(x, state, starts, None)


class Leaky(LinearAttention):
    """Reads the next token."""

    def prefill(self, x, state, starts=None, lengths=None):
        return super().prefill((x + jnp.roll(x, -1, axis=1)) / 2, state, starts, lengths)


class Clairvoyant(GRU):
    """Reads the next token in training only."""

    def __call__(self, x, starts=None):
        return super().__call__(x, starts) + 1e-2 * jnp.roll(x, -1, axis=1)


class Mixed(GRU):
    """Reads the row before."""

    def prefill(self, x, state, starts=None, lengths=None):
        return super().prefill(x.at[1:].add(0.1 * x[:-1]), state, starts, lengths)


class Undefined(GRU):
    """Has a derivative that is no number."""

    def prefill(self, x, state, starts=None, lengths=None):
        return super().prefill(x + jnp.sqrt(x - x), state, starts, lengths)


class Mistaken(GRU):
    """Decodes another token than it is given."""

    def step(self, x, state):
        return super().step(2 * x, state)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mixer, complaint",
    [
        (Forgetful, "packed documents"),
        (Padded, "prefill of a, then of b"),
        (Leaky, "later input"),
        (Mixed, "another row"),
        (Undefined, "is not finite"),
        (Clairvoyant, "later input"),
        (Mistaken, "scan of step"),
    ],
)
def test_a_broken_mixer_is_told_what_is_broken(mixer, complaint):
    with pytest.raises(laws.LawBroken, match=complaint):
        laws.check(
            partial(mixer, 8, **({} if issubclass(mixer, GRU) else {"heads": 2})),
            dim=8,
            time=5,
            seeds=1,
        )


class RoundedState(LinearAttention):
    """Keeps its state in bfloat16, where small updates are lost."""

    def __init__(self, dim, *, dtype, rngs):
        super().__init__(dim, dtype=dtype, rngs=rngs)
        self.state_dtype = dtype


class ForgetfulOfChunks(GRU):
    """Forgets the state every 64 tokens of a prefill."""

    def prefill(self, x, state, starts=None, lengths=None):
        index = jnp.arange(x.shape[1])
        borders = jnp.broadcast_to((index % 64 == 0) & (index > 0), x.shape[:2])
        starts = borders if starts is None else starts | borders
        return super().prefill(x, state, starts, lengths)


class Stopped(GRU):
    """Stops the gradient of its recurrent matrix, in every reading alike."""

    def _run(self, x, state, method, **masks):
        W = jax.lax.stop_gradient(self.recurrent[...])
        hs, h = ops.gru(self.inp(x), W, self.bias[...], state.h, method=method, **masks)
        return self.out(hs), GRUState(h)


class HalfStopped(Stopped):
    """Stops the gradient of one gate's part of the recurrent matrix only."""

    def _run(self, x, state, method, **masks):
        W = self.recurrent[...]
        W = W.at[:, : self.hidden].set(jax.lax.stop_gradient(W[:, : self.hidden]))
        hs, h = ops.gru(self.inp(x), W, self.bias[...], state.h, method=method, **masks)
        return self.out(hs), GRUState(h)


class LeakyBeyond(GRU):
    """Lets documents leak into each other in prefills of more than 100 tokens."""

    def prefill(self, x, state, starts=None, lengths=None):
        return super().prefill(x, state, None if x.shape[1] > 100 else starts, lengths)


class PaddedBeyond(GRU):
    """Consumes padding in prefills of more than 100 tokens."""

    def prefill(self, x, state, starts=None, lengths=None):
        return super().prefill(x, state, starts, None if x.shape[1] > 100 else lengths)


class ClairvoyantBeyond(GRU):
    """Reads the next token in training rows of more than 100 tokens only."""

    def __call__(self, x, starts=None):
        y = super().__call__(x, starts)
        return y if x.shape[1] <= 100 else y + 0.1 * jnp.roll(x, -1, axis=1)


class StoppedInBfloat16(Stopped):
    """Stops the gradient of its recurrent matrix where it computes in bfloat16."""

    def _run(self, x, state, method, **masks):
        W = self.recurrent[...]
        W = jax.lax.stop_gradient(W) if x.dtype == jnp.bfloat16 else W
        hs, h = ops.gru(self.inp(x), W, self.bias[...], state.h, method=method, **masks)
        return self.out(hs), GRUState(h)


class Unbounded(LinearAttention):
    """Takes exp of keys and queries without a maximum."""

    def _project(self, x):
        shape = (*x.shape[:-1], self.heads, self.head_dim)
        q, k, v = (project(x).reshape(shape) for project in (self.q, self.k, self.v))
        return Tokens(jnp.exp(q), jnp.exp(k), v)


class Unnamed(GRU):
    """Has a parameter without axes."""

    def __init__(self, dim, *, dtype, rngs):
        super().__init__(dim, dtype=dtype, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(3 * dim))


class Shifted(GRU):
    """Adds to each row a number of its own, so that rows of a batch cannot be reordered."""

    def step(self, x, state):
        return super().step(x + 0.1 * jnp.arange(len(x))[:, None], state)


class Hidden(GRU):
    """Reads the next token behind a stopped gradient."""

    def __call__(self, x, starts=None):
        leak = jax.lax.stop_gradient(jnp.roll(x, -1, axis=1))
        return super().__call__(x, starts) + 0.1 * leak


class Unstated(GRU):
    """Doubles tokens by a digit of their sum, a choice that it does not state."""

    digit = 32

    def _choose(self, x):
        return x * (1 + jnp.floor(x.sum(-1, keepdims=True) * self.digit) % 2)

    def prefill(self, x, state, starts=None, lengths=None):
        return super().prefill(self._choose(x), state, starts, lengths)

    def step(self, x, state):
        return super().step(self._choose(x), state)


class Stated(Unstated):
    """States it."""

    piecewise = True


class StatedStopped(Stated, HalfStopped):
    """Has a wrong gradient besides."""


class Rounded(Stated):
    """Rounds its inputs and takes their gradient for that of the rounded ones."""

    def prefill(self, x, state, starts=None, lengths=None):
        x = x + jax.lax.stop_gradient(jnp.round(x * 64) / 64 - x)
        return super().prefill(x, state, starts, lengths)


class Jumping(Stated):
    """Has choices that every small step changes."""

    digit = 2**16


def test_gradients_of_a_mixer_that_states_its_choices_are_judged_between_them():
    clauses = {clause.name: clause for clause in laws.clauses(partial(Stated, 8), dim=8, seeds=1)}
    clauses["differences"].test()


@pytest.mark.parametrize(
    "mixer, name, complaint",
    [
        (Unstated, "differences", "of the inputs, .* differs from finite differences"),
        (StatedStopped, "differences", "recurrent.* differs from finite differences"),
        (Rounded, "differences", "of the inputs, .* differs from finite differences"),
        (Jumping, "differences", "of the inputs, .* jumps in"),
        (RoundedState, "bfloat16_step", "steps against float32 prefill"),
        (ForgetfulOfChunks, "long", "over 1030 tokens"),
        (LeakyBeyond, "long", "step is prefill"),
        (PaddedBeyond, "long", "step is prefill"),
        (ClairvoyantBeyond, "long", "a call is prefill"),
        (StoppedInBfloat16, "bfloat16", "recurrent"),
        (Stopped, "used", "recurrent"),
        (Stopped, "differences", "recurrent"),
        (HalfStopped, "differences", "recurrent"),
        (Unbounded, "large", "is not finite"),
        (Unnamed, "axes", "bias of shape"),
        (Shifted, "reuse", "a forked state"),
        (Hidden, "causal", "later input"),
    ],
)
def test_the_clause_made_for_a_fault_refuses_it(mixer, name, complaint):
    clauses = {clause.name: clause for clause in laws.clauses(partial(mixer, 8), dim=8, seeds=1)}
    with pytest.raises(laws.LawBroken, match=complaint):
        clauses[name].test()
