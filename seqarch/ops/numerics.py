"""Products, sums and broadcasts, written so that XLA runs them fast and sums them in float32.

XLA on CPU compiles a reduction over a product to a scalar loop but a dot to a vectorised one
(27-35x), and the gradient of a broadcast is such a reduction. Reductions and broadcasts in hot
paths are therefore written as dots with ones.

Operands in bfloat16 are multiplied as they are and summed in float32. Operands in float32 have the
precision of the function:

    project    a product with a parameter: that of `model.precision`; float32 by default
    dot        a product inside a recurrence: always float32, since errors add up over a sequence,
               a softmax or a sum of logs
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from seqarch.types import Array, Bool, DTypeLike, Float, Int

# "highest" multiplies float32 operands in float32 where the default is less (bfloat16 on TPUs, TF32
# on GPUs); bfloat16 operands stay bfloat16.
dot = partial(jnp.einsum, preferred_element_type=jnp.float32, precision="highest")


def project(
    x: Float[Array, "... D"], W: Float[Array, "D F"], dtype: DTypeLike
) -> Float[Array, "... F"]:
    """Returns x W in `dtype`, at the precision of `jax.default_matmul_precision`.

    Where none is in force it is float32. The leading axes are merged for the product: with three
    axes XLA on CPU would transpose the cotangent before the product for the gradient of W, and take
    four times as long.
    """
    precision = None if jax.config.jax_default_matmul_precision else "highest"
    product = lambda x: jnp.matmul(x, W, precision=precision, preferred_element_type=dtype)
    y = multiply_rows(product, x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], W.shape[-1])


def multiply_rows(product: Callable[[Array], Array], x: Float[Array, "B *D"]) -> Array:
    """Returns `product(x)`, which multiplies each row of `x` with the same weights.

    TPUs leave the product of a single row to their vector units: a decoding step of 125M parameters
    is then estimated to take up to five times as long as one of two rows, which reads as many
    weights. So there a second row, of zeros, is computed and dropped.
    """
    if len(x) > 1:
        return product(x)
    two = lambda x: product(jnp.concatenate([x, jnp.zeros_like(x)]))[:1]
    return jax.lax.platform_dependent(x, tpu=two, default=product)


def spread(x: Array, size: int) -> Array:
    """Returns `x` [...] repeated over a new last axis: [..., size]."""
    return jnp.einsum("...,c->...c", x, jnp.ones(size, x.dtype), precision="highest")


def fill(x: Array, axis: int, size: int, value: float = 0) -> Array:
    """Returns an array with an axis filled up to a multiple of `size`."""
    missing = -x.shape[axis] % size
    widths = [(0, missing if each == axis else 0) for each in range(x.ndim)]
    return jnp.pad(x, widths, constant_values=value) if missing else x


def behind(mask: Array, x: Array) -> Array:
    """Returns a mask of the first axes of `x` with an axis of size 1 for each of the others."""
    return mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))


def tokens_at(x: Float[Array, "B T D"], index: Int[Array, "B Q"]) -> Float[Array, "B Q D"]:
    """Returns the tokens of each row at some indices, which differ within the row."""
    row = jnp.arange(len(x))[:, None]
    return x.at[row, index].get(unique_indices=True, mode="promise_in_bounds")


def rms(x: Float[Array, "... D"], eps: float = 1e-6) -> Float[Array, "... D"]:
    """Returns x / sqrt(mean(x^2) + eps), computed in float32.

    Reduction and broadcast are dots: the gradient of the plain form takes five times as long with
    one row on a CPU.
    """
    x32, size = x.astype(jnp.float32), x.shape[-1]
    inverse = jax.lax.rsqrt(dot("...d,...d->...", x32, x32) / size + eps)
    return (x32 * spread(inverse, size)).astype(x.dtype)


def rows(v: Float[Array, "E"], like: Float[Array, "*BT E"]) -> Float[Array, "*BT E"]:
    """Returns `v` repeated over the leading axes of `like`, in its dtype.

    The gradient is summed in float32.
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
    """Sums the cotangent by a dot with a row of ones, which needs no transpose in memory."""
    dy = dy.reshape(-1, dy.shape[-1])
    return (dot("n,ne->e", jnp.ones(len(dy), dy.dtype), dy).astype(v.dtype),)


_rows.defvjp(_rows_forward, _rows_backward)


def cumsum(g: Float[Array, "B C *X"]) -> Float[Array, "B C *X"]:
    """Returns the inclusive cumulative sum over a chunk's tokens, in float32 on every device."""
    lower = jnp.tril(jnp.ones((g.shape[1],) * 2, jnp.float32))
    return jnp.einsum("ts,bs...->bt...", lower, g.astype(jnp.float32), precision="highest")


def segments(starts: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """Returns the number of each token's document: 0, that of the state, until the first start."""
    return jnp.cumsum(starts, axis=1, dtype=jnp.int32)


def valid_tokens(lengths: Int[Array, "B"] | None, batch: int, time: int) -> Bool[Array, "B T"]:
    """Returns which tokens of a right-padded batch are not padding; None: rows are full."""
    if lengths is None:
        return jnp.ones((batch, time), bool)
    return jnp.arange(time)[None] < lengths[:, None]
