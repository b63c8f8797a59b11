"""Reading and writing the slots of a key/value cache, in the layout in which it stays in memory.

A compiler chooses a layout for every array of a program. Where the one in which tokens are written
differs from the one in which they are read, it copies the whole cache for every decoded token. So
both are given. TPUs lay the last axis along 128 lanes, which the channels of narrow heads would
leave empty: there the slots are last in memory.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from seqarch.types import Array, Float, Int

LANES = 128  # numbers of a row of a TPU's registers


def put(
    cache: Float[Array, "B G S *K"] | Int[Array, "B G S *K"],
    new: Float[Array, "B T G *K"] | Int[Array, "B T G *K"],
    slot: Int[Array, "B T"],
) -> Array:
    """Returns `cache` with each token in its slot; tokens beyond the last slot are dropped."""
    new = new.astype(cache.dtype)
    if new.shape[1] > 1:
        return _scatter(cache, new, slot)
    return jax.lax.platform_dependent(cache, new, slot, tpu=_put_one, default=_scatter)


def take(x: Float[Array, "B G S K"], start: Int[Array, ""], size: int) -> Float[Array, "B G C K"]:
    """Returns `size` slots from `start` on."""
    block = jax.lax.dynamic_slice_in_dim(x, start, size, axis=2)
    standard = partial(_laid_out, slots_last=False)
    if not _narrow(x):
        return standard(block)
    last = partial(_laid_out, slots_last=True)
    return jax.lax.platform_dependent(block, tpu=last, default=standard)


def _scatter(cache: Array, new: Array, slot: Array) -> Array:
    """Returns what `put` does.

    Every head has an index of its own: with a shared one, TPUs copy the cache, and prefill on v5e
    with 262,144 slots of two heads of 128 has 131 MiB of temporaries instead of none. A single
    token has a shared index, with which it is a dynamic_update_slice.
    """
    B, T, G = new.shape[:3]
    row = jnp.arange(B)[:, None]
    if B * T == 1:
        return cache.at[row, :, slot].set(new, mode="drop")
    return cache.at[row[..., None], jnp.arange(G)[:, None], slot[:, None]].set(
        new.swapaxes(1, 2), mode="drop"
    )


def _put_one(cache: Array, new: Array, slot: Array) -> Array:
    """Returns what `put` does with one token of each row, on TPUs.

    Tokens of narrow heads are written row by row, since a scatter has a layout of its own.
    """

    def write(row: Int[Array, ""] | int, cache: Array) -> Array:
        cache = cache.at[row, :, slot[row, 0]].set(new[row, 0], mode="drop")
        return _laid_out(cache, slots_last=_narrow(cache))

    if len(new) == 1:
        return write(0, cache)
    return (
        jax.lax.fori_loop(0, len(new), write, cache)
        if _narrow(cache)
        else _scatter(cache, new, slot)
    )


def _narrow(cache: Array) -> bool:
    """Returns whether the channels of a head would leave lanes empty."""
    return cache.ndim == 4 and cache.shape[-1] % LANES > 0


def _laid_out(x: Array, *, slots_last: bool) -> Array:
    """Returns a cache or slots of it, the last axis next to each other in memory, or the slots."""
    *others, slots, channels = range(x.ndim)
    order = (*others, channels, slots) if slots_last else (*others, slots, channels)
    return with_layout_constraint(x, Layout(major_to_minor=order))
