"""Reading and writing the slots of a key/value cache, in the layout in which it stays in memory.

A compiler chooses a layout for every array of a program. Where the one in which tokens are written
differs from the one in which they are read, it copies the whole cache for every decoded token. So
both are given. TPUs lay the last axis along 128 lanes, of which the channels of narrow heads would
leave some empty: there the slots are last in memory, unless they would leave more.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from seqarch.ops.kernels import LANES
from seqarch.ops.sharded_rows import by_rows, row_devices
from seqarch.types import Array, Float, Int

Row = Int[Array, ""] | int


def put(
    cache: Float[Array, "B G S *K"] | Int[Array, "B G S *K"],
    new: Float[Array, "B T G *K"] | Int[Array, "B T G *K"],
    slot: Int[Array, "B T"],
    *,
    run: bool = False,
) -> Array:
    """Returns `cache` with each token in its slot; tokens beyond the last slot are dropped.

    Args:
      cache: slots of heads.
      new: tokens.
      slot: of each token.
      run: whether those of a row that are not dropped stand side by side, in slots side by side.
    """
    new, T = new.astype(cache.dtype), new.shape[1]
    if T > 1 and not (run and T <= cache.shape[2]):
        return _scatter(cache, new, slot)
    on_tpu = _put_one if T == 1 else _put_run
    return jax.lax.platform_dependent(cache, new, slot, tpu=on_tpu, default=_scatter)


def take(x: Float[Array, "B G S K"], start: Int[Array, ""], size: int) -> Float[Array, "B G C K"]:
    """Returns `size` slots from `start` on."""
    block = jax.lax.dynamic_slice_in_dim(x, start, size, axis=2)
    standard = partial(_laid_out, slots_last=False)
    if not is_narrow(x):
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

    Tokens of narrow heads are written row by row, since a scatter has a layout of its own. So has
    the slot that it reads, in case the token is dropped, if it is not given one.
    """
    laid_out = partial(_laid_out, slots_last=is_narrow(cache))

    def write(row: Row, cache: Array, new: Array, slot: Array) -> Array:
        place, G, S = slot[row, 0], *cache.shape[1:3]
        start = (row, 0, jnp.minimum(place, S - 1), *(0,) * (cache.ndim - 3))
        old = jax.lax.dynamic_slice(cache, start, (1, G, 1, *cache.shape[3:]))
        given = laid_out(new[row, 0].reshape(old.shape))
        token = jnp.where(place < S, given, laid_out(old))
        return laid_out(jax.lax.dynamic_update_slice(cache, token, start))

    if len(new) > 1 and not is_narrow(cache):
        return _scatter(cache, new, slot)
    return _row_by_row(write, cache, new, slot)


def _put_run(cache: Array, new: Array, slot: Array) -> Array:
    """Returns what `put` does with a run of tokens of each row, on TPUs.

    As many slots as there are tokens are read, changed and written at once. A scatter writes a
    token of a head at a time: in a prefill of 2,048 tokens on a v5e it is estimated to take ten
    times as long as all products.
    """
    T, S = new.shape[1], cache.shape[2]

    def write(row: Row, cache: Array, new: Array, slot: Array) -> Array:
        kept = slot[row] < S
        first = jnp.argmax(kept)
        start = slot[row, first] - first  # the slot of token 0, which may have none
        begin = jnp.clip(start, 0, S - T)
        token = jnp.arange(T) + begin - start  # of each of the slots
        kept = kept[token % T] & (token >= 0) & (token < T)
        old = jax.lax.dynamic_slice_in_dim(cache[row], begin, T, 1)
        twice = jnp.concatenate([new[row].swapaxes(0, 1)] * 2, axis=1)
        given = jax.lax.dynamic_slice_in_dim(twice, (begin - start) % T, T, 1)
        here = kept.reshape(1, T, *(1,) * (old.ndim - 2))
        start = (row, 0, begin, *(0,) * (old.ndim - 2))
        return jax.lax.dynamic_update_slice(cache, jnp.where(here, given, old)[None], start)

    return _row_by_row(write, cache, new, slot)


def _row_by_row(write: Callable, cache: Array, new: Array, slot: Array) -> Array:
    """Returns the cache after `write(row, cache, new, slot)` for each row of each device.

    Where rows do not divide over devices, it is that after a scatter.
    """
    if len(new) == 1:
        return write(0, cache, new, slot)
    if len(new) % row_devices():
        return _scatter(cache, new, slot)

    def loop(rows: tuple[Array, ...], _: None) -> Array:
        cache, *given = rows
        return jax.lax.fori_loop(0, len(cache), lambda row, cache: write(row, cache, *given), cache)

    return by_rows(loop, (cache, new, slot), None)


def is_narrow(cache: Array) -> bool:
    """Returns whether the channels of a head would leave more lanes empty than the slots."""
    filled = lambda size: size / (size + -size % LANES)
    return cache.ndim == 4 and filled(cache.shape[3]) < filled(cache.shape[2])


def _laid_out(x: Array, *, slots_last: bool) -> Array:
    """Returns a cache or slots of it, the last axis next to each other in memory, or the slots."""
    *others, slots, channels = range(x.ndim)
    order = (*others, channels, slots) if slots_last else (*others, slots, channels)
    return with_layout_constraint(x, Layout(major_to_minor=order))
