"""A causal depthwise convolution whose state is its halo: the last W - 1 inputs.

Mamba has one before its scan (Gu and Dao 2023, section 3.4).
"""

import jax
import jax.numpy as jnp

from seqarch.ops.numerics import dot, segments
from seqarch.types import Array, Bool, Float, Int


def causal_conv(
    x: Float[Array, "B T E"],
    w: Float[Array, "W E"],
    state: Float[Array, "B W-1 E"],
    *,
    starts: Bool[Array, "B T"] | None = None,
    lengths: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B T E"], Float[Array, "B W-1 E"]]:
    """Returns y_t = sum_j w_j x_{t-W+1+j} and the state after it.

    Args:
      x: inputs.
      w: weights.
      state: the W - 1 inputs before the first token.
      starts: whether a token is the first of a document, for which all inputs before it are zero.
      lengths: tokens of each row before its padding; None: T. The state after is that after them.
    """
    width = w.shape[0]
    padded = jnp.concatenate([state.astype(x.dtype), x], axis=1)
    if starts is None:
        segment = same = None
    else:
        segment = jnp.pad(segments(starts), ((0, 0), (width - 1, 0)))
        same = jnp.stack([tap == segment[:, width - 1 :] for tap in _taps(segment, width)])
    return _conv(padded, w, same), _last(padded, segment, width - 1, lengths).astype(state.dtype)


def causal_conv_step(
    x: Float[Array, "B E"], w: Float[Array, "W E"], state: Float[Array, "B W-1 E"]
) -> tuple[Float[Array, "B E"], Float[Array, "B W-1 E"]]:
    """Computes `causal_conv` for one token a row."""
    recent = jnp.concatenate([state.astype(x.dtype), x[:, None]], axis=1)
    return _conv(recent, w, None)[:, 0], recent[:, 1:].astype(state.dtype)


@jax.custom_vjp
def _conv(
    x: Float[Array, "B _ E"], w: Float[Array, "W E"], same: Bool[Array, "W B T"] | None
) -> Float[Array, "B T E"]:
    """Returns sum_j w_j x_{t+j} over the T + W - 1 inputs of the `same` document.

    It is summed in float32 and rounded once. It has its own gradient because XLA on CPU would
    recompute and transpose the cotangent for every tap.
    """
    taps = enumerate(_taps(x.astype(jnp.float32), len(w)))
    return sum(_where(same, j, tap) * w[None, j : j + 1] for j, tap in taps).astype(x.dtype)


def _conv_backward(saved, dy):
    x, w, same = saved
    width, dtype = len(w), x.dtype
    x, dy = x.astype(jnp.float32), dy.astype(jnp.float32)
    cotangents = [_where(same, j, dy) for j in range(width)]
    dx = sum(
        jnp.pad(g * w[None, j : j + 1], ((0, 0), (j, width - 1 - j), (0, 0)))
        for j, g in enumerate(cotangents)
    )
    ones = jnp.ones(dy.shape[0] * dy.shape[1])
    products = [(tap * g).reshape(-1, dy.shape[-1]) for tap, g in zip(_taps(x, width), cotangents)]
    dw = jnp.stack([dot("n,ne->e", ones, product) for product in products])
    return dx.astype(dtype), dw.astype(w.dtype), None


_conv.defvjp(lambda x, w, same: (_conv(x, w, same), (x, w, same)), _conv_backward)


def _taps(x: Array, width: int) -> list[Array]:
    """Returns the `width` views of x [B, T + width - 1, ...] that are T long, by their start."""
    return [x[:, j : x.shape[1] - width + 1 + j] for j in range(width)]


def _where(
    same: Bool[Array, "W B T"] | None, j: int, x: Float[Array, "B T E"]
) -> Float[Array, "B T E"]:
    return x if same is None else jnp.where(same[j][..., None], x, 0)


def _last(padded: Array, segment: Array | None, size: int, lengths: Array | None) -> Array:
    """Returns the last `size` inputs of each row's last document."""
    if lengths is None:
        lengths = jnp.full(padded.shape[0], padded.shape[1] - size)
    index = lengths[:, None] + jnp.arange(size)[None]
    last = jnp.take_along_axis(padded, index[..., None], axis=1)
    if segment is None:
        return last
    current = jnp.take_along_axis(segment, (lengths + size - 1)[:, None], axis=1)
    return jnp.where((jnp.take_along_axis(segment, index, axis=1) == current)[..., None], last, 0)
