"""Layers that treat heads, or blocks of channels, apart from each other."""

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.ops.numerics import dot, rows, spread
from seqarch.types import Array, DTypeLike, Float


class BlockLinear(nnx.Module):
    """The projection y = x W + b with a block-diagonal W: each head's channels have a block.

    Products are summed and returned in float32, as gates of recurrences are computed in.

    Args:
      heads: number of blocks H.
      features_in: channels of x in a block.
      features_out: channels of y in a block.
      scale: standard deviation of W's entries.
      axis: logical name of the blocks' output channels.
      rngs: for W.
      dtype: of the factors.
      bias: whether there is a b.
    """

    def __init__(
        self,
        heads: int,
        features_in: int,
        features_out: int,
        *,
        scale: float,
        axis: str,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        bias: bool = False,
    ):
        kernel = scale * jax.random.normal(rngs.params(), (heads, features_in, features_out))
        self.kernel = nnx.Param(kernel, axes=("heads", None, axis), cast=jnp.dtype(dtype))
        b = None
        if bias:
            b = nnx.Param(jnp.zeros(heads * features_out), axes=(axis,), decay=False)
        self.bias, self.dtype = b, dtype

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... H V"]:
        W = self.kernel[...].astype(self.dtype)
        x = x.astype(self.dtype).reshape(-1, *W.shape[:2]), x.shape[:-1]
        y = dot("nhk,hkv->nhv", x[0], W)
        if self.bias is not None:
            flat = y.reshape(len(y), -1)
            y = (flat + rows(self.bias[...], flat)).reshape(y.shape)
        return y.reshape(*x[1], *y.shape[1:])


class HeadNorm(nnx.Module):
    """Layer norm of each head's channels, with a scale per channel, computed in float32.

    It is the group norm of Wu and He 2018, "Group normalization", equation 1, with a head as a
    group.

    Args:
      heads: number of heads H.
      channels: channels of all heads together.
      eps: added to the variance.
    """

    def __init__(self, heads: int, channels: int, *, eps: float = 1e-5):
        self.heads, self.eps = heads, eps
        self.scale = nnx.Param(jnp.ones(channels), axes=(None,), decay=False)

    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... E"]:
        x32 = x.astype(jnp.float32).reshape(*x.shape[:-1], self.heads, -1)
        size = x32.shape[-1]
        ones = jnp.ones(size)
        centred = x32 - spread(dot("...k,k->...", x32, ones) / size, size)
        variance = dot("...k,...k->...", centred, centred) / size
        y = (centred * spread(jax.lax.rsqrt(variance + self.eps), size)).reshape(x.shape)
        return (y * rows(self.scale[...], y)).astype(x.dtype)
