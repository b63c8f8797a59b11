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
from seqarch.ops.numerics import dot
from seqarch.types import Array, Float

BLOCK = 8  # tokens of blocks in which narrower widths are masked products of all tokens


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
    padding = [(0, 0), (0, (1 << (C - 1).bit_length()) - C), (0, 0), (0, 0)]
    g, *sets = (jnp.pad(x.astype(jnp.float32), padding) for x in (g, *reads, *writes))
    given = _blocks(sets[:R]), _blocks(sets[R:]), jnp.swapaxes(g, 1, 2)
    scores, q, k, decay = _decayed(*given)
    ones = jnp.ones(g.shape[-1])  # a reduction that XLA on CPU runs fast
    own = jnp.array([[dot("bthk,k->bht", r * w, ones) for w in sets[R:]] for r in sets[:R]])
    own = jnp.moveaxis(own, (0, 1), (2, 3))[..., None]
    scores = jnp.where(np.eye(own.shape[-2], dtype=bool), own, scores)[..., :C, :C]
    return Within(scores, _tokens(q)[:, :, :C], _tokens(k)[:, :, :C], decay)


def _blocks(sets: Sequence[Float[Array, "B C H K"]]) -> Float[Array, "B H M S m K"]:
    """Returns M blocks of sets of queries or keys."""
    x = jnp.stack(sets)
    x = x.reshape(*x.shape[:2], -1, min(BLOCK, x.shape[2]), *x.shape[3:])
    return x.transpose(1, 4, 2, 0, 3, 5)


def _tokens(x: Float[Array, "B H M S m K"]) -> Float[Array, "S B C H K"]:
    """Returns the sets of which `_blocks` are."""
    x = x.transpose(3, 0, 2, 4, 1, 5)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


@jax.custom_vjp
def _decayed(
    q: Float[Array, "B H M R m K"], k: Float[Array, "B H M W m K"], g: Float[Array, "B H C K"]
) -> tuple[Array, Array, Array, Array]:
    """Returns the scores of earlier keys, decayed queries and keys, and the decay of the chunk."""
    narrow, wide, whole, decay = _factors(g, q.shape[4])
    return *_apply(narrow, wide, whole, q, k), decay


def _forward(*given: Array) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    return _decayed(*given), given


def _backward(given: tuple[Array, ...], d: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """The gradient of G_t = g_1 + ... + g_t is q_t dq_t - k_t dk_t."""
    q, k, g = given
    *factors, decay = _factors(g, q.shape[4])
    (_, _, leaving), pull = jax.vjp(partial(_apply, *factors), q, k)
    dq, dk = pull(d[:3])
    each = (_sum(q * dq) - _sum(k * dk)).reshape(g.shape)
    ends = _sum(leaving * d[2]).reshape(g.shape)
    # With one matrix for all heads XLA on CPU would transpose `each` token by token.
    later = jnp.broadcast_to(jnp.triu(jnp.ones((g.shape[2],) * 2)), (*g.shape[:3], g.shape[2]))
    dg = dot("bhts,bhsk->bhtk", later, each) + dot("bhts,bhsk->bhtk", jnp.ones_like(later), ends)
    return dq, dk, dg + (decay * d[3])[:, :, None]


_decayed.defvjp(_forward, _backward)


def _sum(x: Float[Array, "B H M S m K"]) -> Float[Array, "B H M m K"]:
    return sum(x[:, :, :, i] for i in range(x.shape[3]))


def _factors(
    g: Float[Array, "B H C K"], size: int
) -> tuple[list[Array], list[Factors], Factors, Array]:
    """Returns the factors of widths below `size`, of those below C, and of C, and its decay.

    The first are of every token: those of one before a border, and of one behind it.
    """
    narrow, wide, total = [], [], g  # total: log-decays over blocks
    whole = Factors(jnp.ones(g.shape)[..., None, :], jnp.exp(g)[..., None, :])
    while total.shape[2] > 1:
        total = _halves(total)
        decay, until, since = (
            (x[:, :, :, 0], x[:, :, :, 1])
            for x in (jnp.exp(total)[..., None, :], *map(_halves, whole))
        )
        parting = Factors(until[0], since[1])
        if until[0].shape[3] < size:
            both = jnp.concatenate(parting, 3)
            narrow.append(both.reshape(*g.shape[:2], -1, 1, size, g.shape[3]))
        else:
            wide.append(parting)
        whole = Factors(
            jnp.concatenate([until[0] * decay[1], until[1]], 3),
            jnp.concatenate([since[0], since[1] * decay[0]], 3),
        )
        total = total.sum(3)
    return narrow, wide, whole, jnp.exp(total[:, :, 0])


def _halves(x: Float[Array, "B H P *X"]) -> Float[Array, "B H P/2 2 *X"]:
    return x.reshape(*x.shape[:2], -1, 2, *x.shape[3:])


def _apply(
    narrow: list[Array],
    wide: list[Factors],
    whole: Factors,
    q: Float[Array, "B H M R m K"],
    k: Float[Array, "B H M W m K"],
) -> tuple[Float[Array, "B H R W C C"], Array, Array]:
    """Returns the scores of earlier keys, and queries and keys decayed from and to the borders."""
    R, W, size = q.shape[3], k.shape[3], q.shape[4]
    scores = jnp.zeros((*q.shape[:3], R, W, size, size))
    if narrow:
        factor, ones = jnp.stack(narrow), jnp.ones(len(narrow))
        of = (dot("l,bhmstk->lbhmstk", ones, x) * factor for x in (q, k))
        parts = _products(*(x[..., None, :, :, :] for x in of))
        scores = sum(jnp.where(mask, part, 0.0) for mask, part in zip(_masks(size), parts))
    scores = jnp.moveaxis(scores, 2, 4)  # [B, H, R, W, M, m, m]
    for until, since in wide:
        below = _products(_half(q, 1, since), _half(k, 0, until))
        scores = _merge(scores, jnp.moveaxis(below, 2, 4))
    since, until = (x.reshape(*q.shape[:3], 1, *q.shape[4:]) for x in (whole.since, whole.until))
    return scores[:, :, :, :, 0], q * since, k * until


def _masks(size: int) -> list[np.ndarray]:
    """Returns which queries and keys of a block each width parts."""
    masks, index, width = [], np.arange(size), 1
    while width < size:
        block = index // width
        masks.append((block[:, None] % 2 == 1) & (block[:, None] == block + 1))
        width *= 2
    return masks


def _half(
    x: Float[Array, "B H M S m K"], half: int, factor: Float[Array, "B H P w K"]
) -> Float[Array, "B H P n S m K"]:
    """Returns the tokens in one of each two neighbouring blocks, times their factors."""
    x = x.reshape(*x.shape[:2], factor.shape[2], 2, -1, *x.shape[3:])[:, :, :, half]
    return x * factor.reshape(*x.shape[:4], 1, *x.shape[5:])


def _products(
    q: Float[Array, "*P n R m K"], k: Float[Array, "*P n W m K"]
) -> Float[Array, "*P R W nm nm"]:
    """Returns q_t . k_s of the tokens of n blocks."""
    (n, R, m), W = q.shape[-4:-1], k.shape[-3]
    rows = (x.reshape(*x.shape[:-4], -1, x.shape[-1]) for x in (q, k))
    found = dot("...tk,...sk->...ts", *rows).reshape(*q.shape[:-4], n, R, m, n, W, m)
    found = jnp.moveaxis(found, (-5, -2), (-6, -5))
    return found.reshape(*found.shape[:-4], n * m, n * m)


def _merge(
    scores: Float[Array, "B H R W P2 w w"], below: Float[Array, "B H R W P w w"]
) -> Float[Array, "B H R W P w2 w2"]:
    """Returns the scores of pairs of blocks: those of each, and of the second with the first."""
    pairs = scores.reshape(*below.shape[:5], 2, *below.shape[5:])
    first = jnp.concatenate([pairs[..., 0, :, :], jnp.zeros_like(below)], -1)
    return jnp.concatenate([first, jnp.concatenate([below, pairs[..., 1, :, :]], -1)], -2)
