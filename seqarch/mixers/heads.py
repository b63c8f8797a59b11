"""Heads: their channels, and layers that treat them, or blocks of channels, apart."""

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.errors import UserError
from seqarch.ops.numerics import dot, rows, spread
from seqarch.types import Array, DTypeLike, Float


class BlockLinear(nnx.Module):
    """The projection y = x W + b of each head's channels to several gates of as many channels.

    Products are summed and returned in float32, as gates of recurrences are computed in.

    Args:
      heads: number of heads H.
      channels: channels K of x in a head, and of each gate.
      gates: number of gates, at least 2. With one, XLA on CPU has no such product of bfloat16.
      scale: standard deviation of W's entries.
      rngs: for W.
      dtype: of the factors.
      bias: whether there is a b.
    """

    def __init__(
        self,
        heads: int,
        channels: int,
        gates: int,
        *,
        scale: float,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        bias: bool = False,
    ):
        shape, axes = (heads, channels, gates, channels), ("heads", None, None, "inner")
        kernel = scale * jax.random.normal(rngs.params(), shape)
        self.kernel = nnx.Param(kernel, axes=axes, cast=jnp.dtype(dtype))
        b = None
        if bias:
            b = nnx.Param(jnp.zeros(heads * gates * channels), axes=("inner",), decay=False)
        self.bias, self.dtype = b, dtype

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... H _ K"]:
        W = self.kernel[...].astype(self.dtype)
        flat = x.astype(self.dtype).reshape(-1, *W.shape[:2])
        y = dot("nhk,hkgj->nhgj", flat, W).reshape(len(flat), -1)
        if self.bias is not None:
            y = y + rows(self.bias[...], y)
        return y.reshape(*x.shape[:-1], W.shape[0], *W.shape[2:])


class HeadNorm(nnx.Module):
    """Layer norm of each head's channels, with a scale per channel, computed in float32.

    It is the group norm of Wu and He 2018, "Group normalization", equation 1, with a head as a
    group.

    Args:
      heads: number of heads H.
      channels: channels K of a head.
      eps: added to the variance.
      bias: whether there is a bias per channel.
    """

    def __init__(self, heads: int, channels: int, *, eps: float = 1e-5, bias: bool = False):
        self.eps = eps
        b = nnx.Param(jnp.zeros(heads * channels), axes=(None,), decay=False) if bias else None
        self.bias = b
        self.scale = nnx.Param(jnp.ones(heads * channels), axes=(None,), decay=False)

    def __call__(self, x: Float[Array, "... H K"]) -> Float[Array, "... E"]:
        x32, size = x.astype(jnp.float32), x.shape[-1]
        centred = x32 - spread(dot("...k,k->...", x32, jnp.ones(size)) / size, size)
        variance = dot("...k,...k->...", centred, centred) / size
        y = centred * spread(jax.lax.rsqrt(variance + self.eps), size)
        y = y.reshape(*x.shape[:-2], -1)
        y = y * rows(self.scale[...], y)
        return (y if self.bias is None else y + rows(self.bias[...], y)).astype(x.dtype)


def head_width(name: str, width: int, heads: int) -> int:
    """Returns the channels of each head; raises UserError where heads do not divide the width."""
    if heads < 1 or width % heads:
        raise UserError(f"{name}: its width {width} does not divide into {heads} heads")
    return width // heads


def split_heads(x: Float[Array, "... E"], heads: int) -> Float[Array, "... H K"]:
    """Returns the channels of each head."""
    return x.reshape(*x.shape[:-1], heads, -1)
