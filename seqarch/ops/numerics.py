"""Products, sums and broadcasts in the shape in which XLA runs them fast and accumulates them in
float32.

XLA on CPU compiles a reduction over a product to a scalar loop but a dot to a vectorised one
(27-35x), and the gradient of a
broadcast is such a reduction: so reductions and broadcasts in hot paths are written as dots with
  ones.

One rule says how exact a product is. Operands in bfloat16 are multiplied as they are and summed in
float32. Operands in float32:

    `project`, a product with a parameter: as `model.precision` says; float32 by default
    `dot`, a product inside a recurrence: always float32, as errors add up over a sequence,
      a softmax or a sum of logs
"""

from functools import partial

import jax
import jax.numpy as jnp

from seqarch.types import Array, Bool, DTypeLike, Float, Int

# "highest" keeps float32 operands float32 where dots of them default to less (TPU, and TF32 on
# GPUs); bfloat16 ones stay.
dot = partial(jnp.einsum, preferred_element_type=jnp.float32, precision="highest")


def project(
    x: Float[Array, "... D"], W: Float[Array, "D F"], dtype: DTypeLike
) -> Float[Array, "... F"]:
    """Returns x W in `dtype`, at the precision of `jax.default_matmul_precision`: float32 where
    none is in force.

    The leading axes are one in the product: for three axes XLA on CPU would transpose the cotangent
    before the product that is the gradient of W, and take four times as long.
    """
    precision = None if jax.config.jax_default_matmul_precision else "highest"
    y = jnp.matmul(x.reshape(-1, x.shape[-1]), W, precision=precision, preferred_element_type=dtype)
    return y.reshape(*x.shape[:-1], W.shape[-1])


def spread(x: Array, size: int) -> Array:
    """`x` [...] repeated over a new minor axis: [..., size]."""
    return jnp.einsum("...,c->...c", x, jnp.ones(size, x.dtype), precision="highest")


def rows(v: Float[Array, "E"], like: Float[Array, "*BT E"]) -> Float[Array, "*BT E"]:
    """The channel vector `v` repeated over the leading axes of `like`, in its dtype; the gradient
    is summed in float32.
    """
    return _rows(v, like.shape[:-1], like.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _rows(v: Float[Array, "E"], shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "*BT E"]:
    return jnp.broadcast_to(v.astype(dtype), (*shape, *v.shape))


def _rows_forward(v: Array, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[Array, Array]:
    return _rows(v, shape, dtype), v


def _rows_backward(
    shape: tuple[int, ...], dtype: DTypeLike, v: Float[Array, "E"], dy: Float[Array, "*BT E"]
) -> tuple[Float[Array, "E"]]:
    """A dot with a row of ones; the transpose of a broadcast's einsum would first transpose the
    cotangent in memory.
    """
    dy = dy.reshape(-1, dy.shape[-1])
    return (dot("n,ne->e", jnp.ones(len(dy), dy.dtype), dy).astype(v.dtype),)


_rows.defvjp(_rows_forward, _rows_backward)


def cumsum(g: Float[Array, "B C *X"]) -> Float[Array, "B C *X"]:
    """Inclusive cumulative sum over a chunk's tokens, in full float32 also where dots default to
    less (TPU).
    """
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
