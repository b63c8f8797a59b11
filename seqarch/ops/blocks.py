"""Blocks of queries and of keys, their scores, and which of them need each other.

In blocks, queries are [B, G, N, K] and keys [B, G, S, K]: the R query heads that share one of G
key/value heads are N = R C queries of it. With two axes, R and C, XLA on CPU would transpose every
block of keys for its product.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.ops import bias
from seqarch.ops.bias import Gates
from seqarch.ops.chunks import split
from seqarch.ops.numerics import dot, fill
from seqarch.ops.online_softmax import Partial
from seqarch.ops.visibility import Places, Rule, may_see
from seqarch.types import Array, Bool, Float, Int


class Queries(NamedTuple):
    """A block of queries, or M of them.

    q: scaled by 1 / sqrt(K)
    at: their places
    slope: of ALiBi; None: none
    gate: cumulative log gates; None: none
    relative: bias by distance; None: none
    """

    q: Float[Array, "*M B G N K"]
    at: Places
    slope: Float[Array, "*M G N"] | None = None
    gate: Gates | None = None
    relative: Float[Array, "*M G R W"] | None = None


class Keys(NamedTuple):
    """A block of keys, or M of them.

    k: keys
    v: values
    at: their places
    gate: cumulative log gates [B,G,R,S], of every query head; None: none
    """

    k: Float[Array, "*M B G S K"]
    v: Float[Array, "*M B G S V"]
    at: Places
    gate: Gates | None = None


def pick(blocks: Queries | Keys, index: int | Int[Array, ""]) -> Queries | Keys:
    """Returns one of several blocks."""
    return jax.tree.map(lambda x: x[index], blocks)


def score(queries: Queries, keys: Keys) -> Float[Array, "B G N S"]:
    """Returns the scores of a block, with their biases."""
    scores = dot("bgnk,bgsk->bgns", queries.q, keys.k)
    added = score_bias(queries, keys)
    return scores if added is None else scores + added


def score_bias(queries: Queries, keys: Keys) -> Float[Array, "B G N S"] | None:
    """Returns what is added to the scores; None: nothing."""
    added = None
    if queries.slope is not None:
        added = bias.alibi(queries.slope, queries.at.position, keys.at.position)
    if queries.relative is not None:
        learned = bias.relative(queries.relative, queries.at.position, keys.at.position)
        added = learned if added is None else added + learned
    if keys.gate is not None:
        forget = bias.forget(queries.gate, keys.gate)
        added = forget if added is None else added + forget
    return added


def score_gradients(
    d: Float[Array, "B G N S"], queries: Queries, keys: Keys
) -> tuple[Array, Array | None, Array, Array | None]:
    """Returns the gradients for q, the gates of queries, k, and the gates of keys, in float32.

    That of k is [B,G,K,S]: so XLA on CPU transposes the queries for the product, and not `d`.

    Args:
      d: that of the scores.
      queries: a block.
      keys: a block.
    """
    rounded = d.astype(queries.q.dtype)
    dq = dot("bgns,bgsk->bgnk", rounded, keys.k)
    dk = dot("bgnk,bgns->bgks", queries.q, rounded)
    if keys.gate is None:
        return dq, None, dk, None
    B, G, R, S = keys.gate.part.shape
    by_head = d.reshape(B, G, R, -1, S)
    of_queries = dot("bgns,s->bgn", d, jnp.ones(S))
    return dq, of_queries, dk, -dot("bgrcs,c->bgrs", by_head, jnp.ones(by_head.shape[3]))


def relative_gradient(d: Float[Array, "B G N S"], queries: Queries, keys: Keys) -> Array | None:
    """Returns the gradient for the bias by distance; the arguments are `score_gradients`'s."""
    if queries.relative is None:
        return None

    def added(by_distance: Array) -> Array:
        return bias.relative(by_distance, queries.at.position, keys.at.position)

    return jax.vjp(added, queries.relative)[1](d)[0]


def split_queries(
    q: Float[Array, "B T H K"],
    at: Places,
    groups: int,
    block: int,
    *,
    alibi: bool = False,
    gate: Gates | None = None,
    relative: Float[Array, "H W"] | None = None,
) -> Queries:
    """Returns blocks of queries.

    Args:
      q: queries.
      at: their places.
      groups: G.
      block: tokens C of a block.
      alibi: whether scores have the bias of ALiBi.
      gate: cumulative log gates [B,T,H] of the queries; None: none.
      relative: bias by distance; None: none.
    """
    B, T, H, K = q.shape
    R = H // groups
    grouped = q.reshape(B, T, groups, R, K).transpose(0, 2, 3, 1, 4)
    blocks = _blocks(grouped * jnp.asarray(K**-0.5, q.dtype), block)
    M, C = blocks.shape[0], blocks.shape[-2]
    at = jax.tree.map(lambda x: jnp.concatenate([x] * R, axis=2), _cut(at, block))
    slope = None
    if alibi:
        slope = jnp.repeat(bias.slopes(H).reshape(groups, R), C, axis=1)
        slope = jnp.broadcast_to(slope[None], (M, *slope.shape))
    if gate is not None:
        gate = jax.tree.map(lambda x: _by_head(x, groups, block).reshape(M, B, groups, -1), gate)
    if relative is not None:
        relative = relative.astype(jnp.float32).reshape(1, groups, R, -1)
        relative = jnp.broadcast_to(relative, (M, *relative.shape[1:]))
    return Queries(blocks.reshape(M, B, groups, -1, K), at, slope, gate, relative)


def split_keys(
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    at: Places,
    block: int,
    *,
    gate: Gates | None = None,
) -> Keys:
    """Returns blocks of `block` keys; `gate` has their cumulative log gates [B,S,H]."""
    groups = k.shape[2]
    k, v = (_blocks(x.transpose(0, 2, 1, 3), block) for x in (k, v))
    if gate is not None:
        gate = jax.tree.map(lambda x: _by_head(x, groups, block), gate)
    return Keys(k, v, _cut(at, block), gate)


def join_queries(
    o: Float[Array, "M B G N V"], log_total: Float[Array, "M B G N"], like: Float[Array, "B T H K"]
) -> Partial:
    """Returns the results of the blocks of `split_queries` as one, without the padding."""
    (M, B, G, _), (_, T, H, _) = log_total.shape, like.shape

    def join(x: Array) -> Array:
        x = x.reshape(M, B, G, H // G, -1, *x.shape[4:])
        x = jnp.moveaxis(x, (1, 0, 4), (0, 1, 2))  # [B, M, C, G, R, ...]
        return x.reshape(B, -1, H, *x.shape[5:])[:, :T]

    return Partial(join(o), join(log_total))


def _blocks(x: Array, block: int) -> Array:
    """Returns x [..., T, K] as blocks [M, ..., C, K], padded; C is at most T."""
    block = max(1, min(block, x.shape[-2]))
    x = fill(x, x.ndim - 2, block)
    return jnp.moveaxis(x.reshape(*x.shape[:-2], -1, block, x.shape[-1]), -3, 0)


def _by_head(x: Array, groups: int, block: int) -> Array:
    """Returns x [B, T, H] as blocks [M, B, G, R, C]."""
    x = x.reshape(*x.shape[:2], groups, -1).transpose(0, 2, 3, 1)
    return _blocks(x[..., None], block)[..., 0]


def _cut(at: Places, block: int) -> Places:
    """Returns the places of blocks [M, B, C], with padding marked as absent."""
    return split(jax.tree.map(lambda x: -1, at), at, block)


def spans(
    at_q: Places, at_k: Places, rule: Rule, own: bool
) -> tuple[Int[Array, "M 2"], Int[Array, "M2 2"]]:
    """Returns the key blocks that each query block may see, and the query blocks that may see each.

    Both are ranges [first, end). The `own` keys of queries, those of the same tokens, stand in an
    order in which a token sees none behind it.
    """
    needed = may_see(at_q, at_k, rule)
    if own and rule.causal:
        needed &= jnp.tril(jnp.ones(needed.shape, bool))
    return _ranges(needed), _ranges(needed.T)


def _ranges(needed: Bool[Array, "M M2"]) -> Int[Array, "M 2"]:
    """Returns each row's first True and the place after its last; (0, 0) where there is none."""
    some = needed.any(1)
    first = jnp.where(some, needed.argmax(1), 0)
    end = jnp.where(some, needed.shape[1] - needed[:, ::-1].argmax(1), 0)
    return jnp.stack([first, end], axis=1)


def mean_trips(blocks: int, size: int, rule: Rule) -> float:
    """Returns the mean number of key blocks per query block, and of query blocks per key block.

    It is that of a sequence that is one document, in `blocks` blocks of `size` tokens; with a
    stride, of one that is ordered by residues, in which a query sees one residue; with one
    address looked at, of one that is ordered by it.
    """
    if rule.end is not None:
        return min(blocks, -(-rule.end // size))
    if not rule.causal:
        return blocks
    window = rule.window
    if rule.hashed is not None and rule.hashed.apart:
        window = rule.hashed.window + 1
    reach = blocks if window is None else 1 + (window + size - 2) // size
    if rule.stride is not None:
        return max(1, (blocks / rule.stride + 2) / 2)
    return sum(min(i + 1, reach) for i in range(blocks)) / blocks
