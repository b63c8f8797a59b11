"""The law holds for every mixer, and `check` notices when it does not."""

from functools import partial

import jax.numpy as jnp
import pytest

from seqarch import laws
from seqarch.mixers import GRU, MIXERS, Attention, LinearAttention, Mamba
from seqarch.mixers.short_conv import ShortConv


def convolved(make, dim):
    """The constructor of ShortConv before the mixer that `make` constructs."""
    return lambda dtype, rngs: ShortConv(make(dim, dtype=dtype, rngs=rngs), dim, width=4, dtype=dtype, rngs=rngs)


CASES = {
    "gru": partial(GRU, 16, hidden=24),
    "attention_grouped_normed": partial(Attention, 16, kv_heads=2, qk_norm=True, block=8),
    "attention_window": partial(Attention, 16, window=5, block=8),
    "linear_attention": partial(LinearAttention, 16, chunk=8),
    "linear_attention_decay": partial(LinearAttention, 16, decay="data", chunk=8, method="parallel"),
    "mamba": partial(Mamba, 16, state_dim=4, chunk=8),
    "mamba_chunked": partial(Mamba, 16, state_dim=4, chunk=8, method="chunked"),
}


BLOCKS = {
    "gru_after_convolution": convolved(GRU, 16),
    "attention_after_convolution": convolved(partial(Attention, block=8), 16),
}


def test_every_mixer_has_a_case():
    assert {case.func for case in CASES.values()} == set(MIXERS.values())


@pytest.mark.parametrize("case", [*CASES, *BLOCKS])
def test_the_law_holds(case):
    laws.check((CASES | BLOCKS)[case])


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


class Mistaken(Attention):
    """Decodes a token late."""

    def step(self, x, state):
        return super().step(x, state._replace(length=state.length + 1))


@pytest.mark.parametrize(
    "mixer, complaint",
    [
        (Forgetful, "packed documents"),
        (Padded, "prefill of a, then of b"),
        (Leaky, "later input"),
        (Mixed, "another row"),
        (Undefined, "later input"),
        (Clairvoyant, "later input"),
        (Mistaken, "scan of step"),
    ],
)
def test_a_broken_mixer_is_told_what_is_broken(mixer, complaint):
    with pytest.raises(laws.LawBroken, match=complaint):
        laws.check(partial(mixer, 8, **({} if issubclass(mixer, GRU) else {"heads": 2})), dim=8, time=5, seeds=1)
