"""Groups of heads as rows of their own, for attention in which each group sees keys of its own."""

import jax
import jax.numpy as jnp

from seqarch.ops.online_softmax import Partial
from seqarch.ops.visibility import Places
from seqarch.types import Array, Float, Int


def fold(x: Array) -> Array:
    """Returns x [B,T,G,...] with each group as a row of its own [B G,T,...]."""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], *x.shape[3:])


def fold_queries(q: Float[Array, "B T H K"], groups: int) -> Float[Array, "_ T R K"]:
    """Returns the queries of each group, of R heads, as a row of its own."""
    return fold(q.reshape(*q.shape[:2], groups, -1, q.shape[-1]))


def fold_places(
    at: Places,
    groups: int,
    *,
    address: Int[Array, "B T G rounds"] | None = None,
    chosen: Int[Array, "B T G count"] | None = None,
) -> Places:
    """Returns the places of tokens for every group, whose addresses or choices differ."""
    position, segment = (jnp.repeat(x, groups, axis=0) for x in at[:2])
    return Places(position, segment, *(x if x is None else fold(x) for x in (address, chosen)))


def unfold(found: Partial, groups: int) -> Partial:
    """Returns the groups' results [B G,T,R,...] by head [B,T,G R,...]."""

    def join(x: Array) -> Array:
        x = x.reshape(-1, groups, *x.shape[1:]).swapaxes(1, 2)
        return x.reshape(*x.shape[:2], -1, *x.shape[4:])

    return jax.tree.map(join, found)
