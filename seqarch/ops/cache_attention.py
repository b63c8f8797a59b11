"""One query against a key/value cache: the decoding step of attention, whose time follows the filled part of the cache.

Online softmax over blocks of slots (Milakov and Gimelshein 2018, algorithm 3), as in blockwise.py.
"""

from functools import partial

import jax
import jax.numpy as jnp

from seqarch.ops.attention import attention
from seqarch.ops.blockwise import absorb, average, empty
from seqarch.ops.visibility import Places, Rule, visible
from seqarch.types import Array, Float, Int


@partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def cache_attention(
    q: Float[Array, "B H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G K"],
    q_pos: Int[Array, "B"],
    k_pos: Int[Array, "B S"],
    filled: Int[Array, ""],
    window: int | None = None,
    block: int = 256,
) -> Float[Array, "B H K"]:
    """Causal attention of each row's query to its cache, by blocks up to the first `filled` slots of any row.

    k, v: of any dtype; a block at a time is cast to q's, since casting a cache would copy it
    A loop with a traced bound has no reverse mode: the gradient is that of the materialised form.
    """
    (B, H, K), (S, G) = q.shape, k.shape[1:3]
    block = min(block, S)
    grouped = (q * jnp.asarray(K**-0.5, q.dtype)).reshape(B, G, H // G, 1, K)
    here = Places(q_pos[:, None], jnp.zeros((B, 1), jnp.int32))

    def body(j, running):
        start = jnp.minimum(j * block, S - block)  # the last block may overlap the one before, whose slots count once
        cut = lambda x: jax.lax.dynamic_slice_in_dim(x, start, block, axis=1)
        fresh = (start + jnp.arange(block) >= j * block)[None]
        there = Places(jnp.where(fresh, cut(k_pos), -1), jnp.zeros((B, block), jnp.int32))
        seen = visible(here, there, Rule(True, window))
        return absorb(running, grouped, *(cut(x).transpose(0, 2, 1, 3).astype(q.dtype) for x in (k, v)), seen)

    with jax.named_scope(f"at_most_{-(-S // block)}_trips"):  # tells seqarch.flops
        running = jax.lax.fori_loop(0, -(-jnp.minimum(filled, S) // block), body, empty(grouped))
    return average(running).reshape(B, H, K).astype(q.dtype)


def _forward(q, k, v, q_pos, k_pos, filled, window, block):
    return cache_attention(q, k, v, q_pos, k_pos, filled, window, block), (q, k, v, q_pos, k_pos)


def _backward(window, block, saved, do):
    q, k, v, q_pos, k_pos = saved

    def definition(q, k, v):
        k, v = k.astype(q.dtype), v.astype(q.dtype)
        return attention(q[:, None], k, v, q_pos[:, None], k_pos, window=window, method="materialised")[:, 0]

    return *jax.vjp(definition, q, k, v)[1](do), None, None, None


cache_attention.defvjp(_forward, _backward)
