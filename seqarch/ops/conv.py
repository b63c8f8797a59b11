"""A causal depthwise convolution with a state, which is its halo: the last W - 1 inputs."""

import jax.numpy as jnp

from seqarch.ops.numerics import rows, segments
from seqarch.types import Array, Bool, Float, Int


def causal_conv(
    x: Float[Array, "B T E"],
    w: Float[Array, "W E"],
    state: Float[Array, "B W-1 E"],
    *,
    starts: Bool[Array, "B T"] | None = None,
    lengths: Int[Array, "B"] | None = None,
) -> tuple[Float[Array, "B T E"], Float[Array, "B W-1 E"]]:
    """y_t = sum_j w_j x_{t-W+1+j}, where the inputs before the first token come from `state`.

    starts: tokens whose predecessors are of another document, and count as zero
    lengths: the tokens that each row really has; the state is the inputs before their end
    """
    width, time = w.shape[0], x.shape[1]
    padded = jnp.concatenate([state.astype(x.dtype), x], axis=1)
    if starts is None:
        segment = None
    else:
        segment = jnp.pad(segments(starts), ((0, 0), (width - 1, 0)))
    y = jnp.zeros_like(x)
    for j in range(width):
        tap = padded[:, j : j + time]
        if segment is not None:
            tap = jnp.where((segment[:, j : j + time] == segment[:, width - 1 :])[..., None], tap, 0)
        y = y + tap * rows(w[j], tap)
    return y, _last(padded, segment, width - 1, lengths).astype(state.dtype)


def _last(padded: Array, segment: Array | None, size: int, lengths: Array | None) -> Array:
    """The last `size` inputs of each row's last document."""
    if lengths is None:
        lengths = jnp.full(padded.shape[0], padded.shape[1] - size)
    index = lengths[:, None] + jnp.arange(size)[None]
    last = jnp.take_along_axis(padded, index[..., None], axis=1)
    if segment is None:
        return last
    current = jnp.take_along_axis(segment, (lengths + size - 1)[:, None], axis=1)
    return jnp.where((jnp.take_along_axis(segment, index, axis=1) == current)[..., None], last, 0)
