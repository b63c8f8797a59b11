"""Products, sums and broadcasts in the shape in which XLA runs them fast and accumulates them in float32.

XLA on CPU compiles a reduction over a product to a scalar loop but a dot to a vectorised one (27-35x), and the gradient of a
broadcast is such a reduction: so reductions and broadcasts in hot paths are written as dots with ones.
"""

from functools import partial

import jax
import jax.numpy as jnp

from seqarch.types import Array, Bool, Float, Int

# "highest" keeps float32 operands float32 where dots of them default to less (TPU, and TF32 on GPUs); bfloat16 ones stay.
dot = partial(jnp.einsum, preferred_element_type=jnp.float32, precision="highest")


def spread(x: Array, size: int) -> Array:
    """`x` [...] repeated over a new minor axis: [..., size]."""
    return jnp.einsum("...,c->...c", x, jnp.ones(size, x.dtype), precision="highest")


def rows(v: Float[Array, "E"], like: Float[Array, "*BT E"]) -> Float[Array, "*BT E"]:
    """The channel vector `v` repeated over the leading axes of `like`, in its dtype."""
    return _rows(v.astype(like.dtype), like.shape[:-1])


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _rows(v: Float[Array, "E"], shape: tuple[int, ...]) -> Float[Array, "*BT E"]:
    return jnp.broadcast_to(v, (*shape, *v.shape))


def _rows_backward(shape: tuple[int, ...], _: None, dy: Float[Array, "*BT E"]) -> tuple[Float[Array, "E"]]:
    """A dot with a row of ones; the transpose of a broadcast's einsum would first transpose the cotangent in memory."""
    dy = dy.reshape(-1, dy.shape[-1])
    return (dot("n,ne->e", jnp.ones(len(dy), dy.dtype), dy).astype(dy.dtype),)


_rows.defvjp(lambda v, shape: (_rows(v, shape), None), _rows_backward)


def cumsum(g: Float[Array, "B C *X"]) -> Float[Array, "B C *X"]:
    """Inclusive cumulative sum over a chunk's tokens, in full float32 also where dots default to less (TPU)."""
    lower = jnp.tril(jnp.ones((g.shape[1],) * 2, jnp.float32))
    return jnp.einsum("ts,bs...->bt...", lower, g.astype(jnp.float32), precision="highest")


def segments(starts: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """The document each token belongs to, counted from the state: 0 until the first start."""
    return jnp.cumsum(starts, axis=1, dtype=jnp.int32)


def valid_tokens(lengths: Int[Array, "B"] | None, batch: int, time: int) -> Bool[Array, "B T"]:
    """Which tokens a right-padded batch really has; all of them where `lengths` is None."""
    if lengths is None:
        return jnp.ones((batch, time), bool)
    return jnp.arange(time)[None] < lengths[:, None]
