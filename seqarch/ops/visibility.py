"""The keys that a query sees, computed from positions and segments, so that no mask is stored."""

from functools import reduce
from operator import or_
from typing import NamedTuple

import jax.numpy as jnp

from seqarch.types import Array, Bool, Int


class Places(NamedTuple):
    """The places of tokens.

    position: of a token in its document; -1 for an absent one
    segment: the number of its document
    address: its address in each round of hashing (`seqarch.ops.lsh`); None: not hashed
    chosen: numbers of the blocks that it chose (`seqarch.ops.nsa`); None: it chose none
    """

    position: Int[Array, "B T"]
    segment: Int[Array, "B T"]
    address: Int[Array, "B T rounds"] | None = None
    chosen: Int[Array, "B T count"] | None = None


class Hashed(NamedTuple):
    """Which keys a query sees by hashes: the last ones before it in its bucket.

    window: how many in a bucket
    apart: only those of the first address, without those that the other addresses find
    """

    window: int
    apart: bool = False


class Rule(NamedTuple):
    """Which keys of its document a query sees: those that every field allows.

    causal: no key after it
    window: only keys less than `window` positions before it; None: all
    first: only keys from this position of the document on
    end: only keys before this position of the document; None: all
    beyond: only keys at least `beyond` positions before it; None: all
    stride: only keys a multiple of `stride` positions away; None: all
    hashed: only keys of its bucket; None: all
    chosen: only keys of the blocks of so many positions that it chose; None: all
    order: what is known of the tokens where queries and keys are the same ones, or where the rule
      is not causal: "packed": they stand in the order of their positions, document by document, and
      absent ones are the last; "padded": they are besides of one document; "whole": and none is
      absent; None: nothing
    alone: whether the averages alone are read, and merged with no others, so that a form may leave
      `log_total` out; it changes nothing that a query sees
    """

    causal: bool = True
    window: int | None = None
    first: int = 0
    end: int | None = None
    beyond: int | None = None
    stride: int | None = None
    hashed: Hashed | None = None
    chosen: int | None = None
    order: str | None = None
    alone: bool = False


def is_plain(rule: Rule) -> bool:
    """Returns whether order and documents alone say what is visible."""
    plain = rule._replace(order=None, causal=True, window=None, alone=False) == Rule()
    return plain and (rule.order is not None or not rule.causal)


def visible(q: Places, k: Places, rule: Rule) -> Bool[Array, "B T S"]:
    """Returns whether each query sees each key: a present one of its segment that `rule` allows."""
    position, segment = k.position[:, None, :], k.segment[:, None, :]
    distance = q.position[:, :, None] - position
    seen = (position >= rule.first) & (q.segment[:, :, None] == segment)
    if rule.causal:
        seen = seen & (distance >= 0)
        if rule.window is not None:
            seen = seen & (distance < rule.window)
    if rule.end is not None:
        seen = seen & (position < rule.end)
    if rule.beyond is not None:
        seen = seen & (distance >= rule.beyond)
    if rule.stride is not None:
        seen = seen & (distance % rule.stride == 0)
    if rule.hashed is not None:
        seen = seen & _finds(q.address, k.address, rule.hashed)
    if rule.chosen is not None:
        of = position // rule.chosen
        numbers = jnp.moveaxis(q.chosen, -1, 0)
        seen = seen & reduce(or_, (number[:, :, None] == of for number in numbers))
    return seen


def _finds(
    q: Int[Array, "B T rounds"], k: Int[Array, "B S rounds"], hashed: Hashed
) -> Bool[Array, "B T S"]:
    """Returns whether each query finds each key by their addresses."""
    gaps = [q[:, :, None, r] - k[:, None, :, r] for r in range(q.shape[-1])]
    finds, *others = [(gap > 0) & (gap <= hashed.window) for gap in gaps]
    for other in others:
        finds = finds & ~other if hashed.apart else finds | other
    return finds


def may_see(q: Places, k: Places, rule: Rule) -> Bool[Array, "M M2"]:
    """Returns whether a query of each block [M,B,C] may see a key of each block [M2,B,C2].

    It follows from the extremes of positions and segments in the blocks, which costs O(blocks^2)
    instead of O(T S). A False is certain, a True is not.
    """
    (q_low, q_high), (k_low, k_high) = (_extremes(at.position) for at in (q, k))
    q_low, q_high, k_low, k_high = q_low[:, None], q_high[:, None], k_low[None], k_high[None]
    may = (k_high >= rule.first) & (q_high >= 0) & _overlap(q.segment, k.segment)
    if rule.causal:
        may &= k_low <= q_high
        if rule.window is not None:
            may &= q_low - k_high < rule.window
    if rule.end is not None:
        may &= k_low < rule.end
    if rule.beyond is not None:
        may &= q_high - k_low >= rule.beyond
    if rule.stride is not None:
        may &= _overlap(*(residues(at, rule.stride) for at in (q, k)))
    if rule.hashed is not None and rule.hashed.apart:
        (q_low, q_high), (k_low, k_high) = (
            _extremes(jnp.where(at.position < 0, -1, at.address[..., 0])) for at in (q, k)
        )
        may &= k_low[None] < q_high[:, None]
        may &= q_low[:, None] - k_high[None] <= rule.hashed.window
    return may.any(-1)


def residues(at: Places, stride: int) -> Int[Array, "..."]:
    """Returns the positions modulo `stride`; -1 for absent tokens."""
    return jnp.where(at.position < 0, -1, at.position % stride)


def _extremes(x: Int[Array, "M B C"]) -> tuple[Int[Array, "M B"], Int[Array, "M B"]]:
    """Returns the least and the greatest number of each block, without the negative ones."""
    return jnp.where(x >= 0, x, jnp.iinfo(jnp.int32).max).min(-1), x.max(-1)


def _overlap(q: Int[Array, "M B C"], k: Int[Array, "M2 B C2"]) -> Bool[Array, "M M2 B"]:
    """Returns whether the ranges of two blocks overlap."""
    (q_low, q_high), (k_low, k_high) = _extremes(q), _extremes(k)
    return (k_low[None] <= q_high[:, None]) & (k_high[None] >= q_low[:, None])
