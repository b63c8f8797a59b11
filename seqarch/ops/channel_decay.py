"""Decays per key channel between the tokens of a chunk, as products of decays over blocks.

A token and an earlier one are parted by the border between two neighbouring blocks of just one
width 1, 2, 4, ... Queries behind a border decay from there, and keys before it to there, so that
one product gives all scores of two blocks, without an array of pairs and channels. No decay is
divided by another, and no exponent is a difference.

Source: Yang et al. 2023, "Gated linear attention transformers with hardware-efficient training",
section 4.3, whose secondary chunks have one width.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.ops.decay import Within
from seqarch.ops.numerics import dot, fill
from seqarch.types import Array, Float


class Factors(NamedTuple):
    """Decays within blocks of w tokens.

    until: of each token to the end of its block
    since: from the start of its block through each token
    """

    until: Float[Array, "B H P w K"]
    since: Float[Array, "B H P w K"]


def by_channel(
    reads: Sequence[Float[Array, "B C H K"]],
    writes: Sequence[Float[Array, "B C H K"]],
    g: Float[Array, "B C H K"],
) -> Within:
    """Returns a chunk with decays per key channel; g is their logarithms."""
    R, C = len(reads), g.shape[1]
    size = 1 << (C - 1).bit_length()
    g, *sets = (fill(x.astype(jnp.float32), 1, size) for x in (g, *reads, *writes))
    given = _by_head(sets[:R]), _by_head(sets[R:]), jnp.swapaxes(g, 1, 2)
    scores, q, k, decay = _decayed(*given)
    ones = jnp.ones(g.shape[-1])  # a reduction that XLA on CPU runs fast
    own = jnp.array([[dot("bthk,k->bht", r * w, ones) for w in sets[R:]] for r in sets[:R]])
    own = jnp.moveaxis(own, (0, 1), (2, 3))[..., None]
    scores = jnp.where(np.eye(own.shape[-2], dtype=bool), own, scores)[..., :C, :C]
    return Within(scores, _tokens(q)[:, :, :C], _tokens(k)[:, :, :C], decay)


def _by_head(sets: Sequence[Float[Array, "B C H K"]]) -> Float[Array, "B H C S K"]:
    return jnp.stack(sets).transpose(1, 3, 2, 0, 4)


def _tokens(x: Float[Array, "B H C S K"]) -> Float[Array, "S B C H K"]:
    return x.transpose(3, 0, 2, 1, 4)


@jax.custom_vjp
def _decayed(
    q: Float[Array, "B H C R K"], k: Float[Array, "B H C W K"], g: Float[Array, "B H C K"]
) -> tuple[Array, Array, Array, Array]:
    """Returns the scores of earlier keys, decayed queries and keys, and the decay of the chunk."""
    *factors, decay = _factors(g)
    return *_apply(*factors, q, k), decay


def _forward(*given: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    return _decayed(*given), given


def _backward(given: tuple[Array, ...], d: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """The gradient of G_t = g_1 + ... + g_t is q_t dq_t - k_t dk_t."""
    q, k, g = given
    *factors, decay = _factors(g)
    (_, _, leaving), pull = jax.vjp(partial(_apply, *factors), q, k)
    dq, dk = pull(d[:3])
    each, ends = _sum(q * dq) - _sum(k * dk), _sum(leaving * d[2])
    # With one matrix for all heads XLA on CPU would transpose `each` token by token.
    later = jnp.broadcast_to(jnp.triu(jnp.ones((g.shape[2],) * 2)), (*g.shape[:3], g.shape[2]))
    ends = dot("bhs,bhsk->bhk", jnp.ones(g.shape[:3]), ends) + decay * d[3]
    return dq, dk, dot("bhts,bhsk->bhtk", later, each) + ends[:, :, None]


_decayed.defvjp(_forward, _backward)


def _sum(x: Float[Array, "B H C S K"]) -> Float[Array, "B H C K"]:
    return sum(x[:, :, :, i] for i in range(x.shape[3]))


def _factors(g: Float[Array, "B H C K"]) -> tuple[list[Factors], Factors, Array]:
    """Returns the factors at the borders of each width below C, those of C, and its decay.

    At a border they are of the tokens of the block before it and of the one behind it.
    """
    borders, total = [], g  # total: log-decays over blocks
    whole = Factors(jnp.ones(g.shape)[..., None, :], jnp.exp(g)[..., None, :])
    while total.shape[2] > 1:
        total = _halves(total)
        decay, until, since = (
            (x[:, :, :, 0], x[:, :, :, 1])
            for x in (jnp.exp(total)[..., None, :], *map(_halves, whole))
        )
        borders.append(Factors(until[0], since[1]))
        whole = Factors(
            jnp.concatenate([until[0] * decay[1], until[1]], 3),
            jnp.concatenate([since[0], since[1] * decay[0]], 3),
        )
        total = total.sum(3)
    return borders, whole, jnp.exp(total[:, :, 0])


def _halves(x: Float[Array, "B H P *X"]) -> Float[Array, "B H P/2 2 *X"]:
    return x.reshape(*x.shape[:2], -1, 2, *x.shape[3:])


def _apply(
    borders: list[Factors],
    whole: Factors,
    q: Float[Array, "B H C R K"],
    k: Float[Array, "B H C W K"],
) -> tuple[Float[Array, "B H R W C C"], Array, Array]:
    """Returns the scores of earlier keys, and queries and keys decayed from and to the borders."""
    scores = jnp.zeros((*q.shape[:2], q.shape[3], k.shape[3], q.shape[2], 1, 1))
    for until, since in borders:
        behind, before = _half(q, 1, since), _half(k, 0, until)
        scores = _merge(scores, dot("bhptrk,bhpswk->bhrwpts", behind, before))
    since, until = (x[:, :, 0, :, None] for x in (whole.since, whole.until))
    return scores[:, :, :, :, 0], q * since, k * until


def _half(
    x: Float[Array, "B H C S K"], half: int, factor: Float[Array, "B H P w K"]
) -> Float[Array, "B H P w S K"]:
    """Returns the tokens in one of each two neighbouring blocks, times their factors."""
    x = x.reshape(*factor.shape[:3], 2, -1, *x.shape[3:])[:, :, :, half]
    return x * factor[..., None, :]


def _merge(
    scores: Float[Array, "B H R W P2 w w"], below: Float[Array, "B H R W P w w"]
) -> Float[Array, "B H R W P w2 w2"]:
    """Returns the scores of pairs of blocks: those of each, and of the second with the first."""
    pairs = scores.reshape(*below.shape[:5], 2, *below.shape[5:])
    first = jnp.concatenate([pairs[..., 0, :, :], jnp.zeros_like(below)], -1)
    return jnp.concatenate([first, jnp.concatenate([below, pairs[..., 1, :, :]], -1)], -2)
