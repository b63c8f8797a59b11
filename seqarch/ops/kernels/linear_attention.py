"""Linear attention with no decay or one per head, by Pallas kernels for TPUs.

A turn of the grid takes some heads of a row through a chunk of tokens, and their states stay in the
core's memory until the row ends. For the backward pass only the states that enter chunks are kept.
Chunks are of 128 tokens, whatever an op's `chunk` says.

Source: Yang et al. 2023, "Gated linear attention transformers with hardware-efficient training",
section 4 (chunks); Dao and Gu 2024, "Transformers are SSMs", section 6 (decay per head).
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from seqarch.ops.decay import FLOOR
from seqarch.ops.kernels import LANES
from seqarch.ops.kernels.call import say_once
from seqarch.ops.kernels.linear_attention_calls import backward, forward
from seqarch.ops.kernels.linear_attention_layout import CHUNK, Layout, fits
from seqarch.ops.matrix_chunks import Tokens
from seqarch.ops.numerics import behind, fill
from seqarch.ops.sharded_rows import by_rows, row_devices
from seqarch.types import Array, Bool, Float, PyTree


def takes(tokens: Tokens, otherwise: str) -> bool:
    """Returns whether the kernels compute a recurrence.

    They do not erase, and decays are per head and not negative. Where only the shapes are the cause
    a line says so, once.

    Args:
      tokens: of the recurrence.
      otherwise: the name of the form that computes it else.
    """
    return decays_per_head(tokens) and has_tiles(tokens, otherwise)


def decays_per_head(tokens: Tokens) -> bool:
    """Returns whether a recurrence erases nothing, and decays per head are not negative."""
    per_head = tokens.log_decay is None or tokens.log_decay.ndim == 3
    return per_head and tokens.r is None and tokens.negative is None


def has_tiles(
    tokens: Tokens,
    otherwise: str,
    padded: Callable[[int], int] = int,
    fits: Callable[[int, int, int], bool] = fits,
) -> bool:
    """Returns whether kernels take the shapes of tokens; says it once where they do not.

    Args:
      tokens: of a recurrence.
      otherwise: the name of the form that computes it else.
      padded: the channels that the kernels give a head with some channels.
      fits: whether heads, and channels of keys and values, fit the device.
    """
    batch, _, heads, key = tokens.q.shape
    reason, value = None, tokens.v.shape[3]
    if not fits(heads, padded(key), padded(value)):
        reason = f"{heads} heads with {key} channels of keys and {value} of values have no tiles"
    elif batch % row_devices():
        reason = f"{batch} rows do not divide over {row_devices()} devices"
    if reason:
        say_once(f"linear_attention: method={otherwise} in place of pallas, as {reason}")
    return reason is None


def linear_attention(
    tokens: Tokens, state: Float[Array, "B H K V"], sums: Float[Array, "B H K"] | None = None
) -> tuple[Array, Array | None, Array, Array | None]:
    """Returns o, n, S and z of `linear_attention_and_sums`; n and z are None without `sums`.

    Outputs are in v's dtype, all else in float32.

    Args:
      tokens: that the kernels take.
      state: before the first token, in float32.
      sums: the sum of keys before the first token; it decays as the state does.
    """
    q, k, v = tokens.q, tokens.k, tokens.v
    layout = Layout(*q.shape[2:], v.shape[3], sums is not None)
    q, k, v = (fill(x.reshape(*x.shape[:2], -1), 1, CHUNK) for x in (q, k, v))
    g = _log_decays(layout, tokens)
    o, S, *read = _attend(layout, q, k, v, g, packed(layout, state, sums))
    time = tokens.q.shape[1]
    o = o[:, :time].reshape(tokens.v.shape)
    S, sums = unpacked(layout, S)
    if not layout.sums:
        return o, None, S, None
    heads = read[0][:, :, : layout.heads_together, :time].reshape(len(o), layout.heads, time)
    return o, jnp.swapaxes(heads, 1, 2), S, sums


def log_decays(tokens: Tokens) -> Float[Array, "B T H"] | None:
    """Returns the log-decays of heads, at least FLOOR; None where the state does not decay.

    A token before which the state is forgotten has the lowest one, whose decay is 0.
    """
    g, starts = tokens.log_decay, tokens.starts
    if g is None and starts is None:
        return None
    return clamped(jnp.zeros(tokens.q.shape[:3]) if g is None else g, starts)


def clamped(g: Float[Array, "B T *X"], starts: Bool[Array, "B T"] | None) -> Float[Array, "B T *X"]:
    """Returns log-decays of at least FLOOR, which is that of tokens that start a document."""
    g = jnp.maximum(g.astype(jnp.float32), FLOOR)
    return g if starts is None else jnp.where(behind(starts, g), FLOOR, g)


def _log_decays(layout: Layout, tokens: Tokens) -> Float[Array, "B I R T"] | None:
    """Returns the log-decays of the heads of each turn of the grid, a head a row."""
    g = log_decays(tokens)
    if g is None:
        return None
    g = jnp.swapaxes(fill(g, 1, CHUNK), 1, 2)
    return fill(g.reshape(len(g), layout.turns, -1, g.shape[2]), 2, layout.rows)


def packed(
    layout: Layout, state: Float[Array, "B H K V"], sums: Float[Array, "B H K"] | None
) -> Float[Array, "B U KP VP"]:
    """Returns the states of units, with a head's sum of keys in the head's lane of the sums."""
    parts = _by_unit(layout, state)
    S = jnp.concatenate(
        [
            jnp.pad(
                part, [(0, 0)] * 3 + [(j * layout.value, (layout.paired - 1 - j) * layout.value)]
            )
            for j, part in enumerate(parts)
        ],
        axis=2,
    )
    if sums is None:
        return S
    lanes = sums[..., None] * _lane_of_head(layout)[None, :, None]
    return jnp.concatenate([S, jnp.concatenate(_by_unit(layout, lanes), axis=2)], axis=3)


def unpacked(
    layout: Layout, S: Float[Array, "B U KP VP"]
) -> tuple[Float[Array, "B H K V"], Float[Array, "B H K"] | None]:
    """Returns the states of heads, and their sums of keys."""
    states, sums = [], []
    for j in range(layout.paired):
        rows = S[:, :, j * layout.key : (j + 1) * layout.key]
        states.append(rows[..., j * layout.value : (j + 1) * layout.value])
        sums.append(rows[..., layout.values :])
    state = _by_head(states)
    if not layout.sums:
        return state, None
    return state, (_by_head(sums) * _lane_of_head(layout)[None, :, None]).sum(-1)


def _by_unit(layout: Layout, x: Float[Array, "B H K X"]) -> list[Float[Array, "B U K X"]]:
    """Returns the first head of each unit, then the second if there is one."""
    x = x.reshape(len(x), layout.units, layout.paired, *x.shape[2:])
    return [x[:, :, j] for j in range(layout.paired)]


def _by_head(parts: list[Float[Array, "B U K X"]]) -> Float[Array, "B H K X"]:
    x = jnp.stack(parts, axis=2)
    return x.reshape(len(x), -1, *x.shape[3:])


def _lane_of_head(layout: Layout) -> Float[Array, "H L"]:
    """Returns 1 in the lane of each head among those of its turn of the grid, else 0."""
    return jax.nn.one_hot(jnp.arange(layout.heads) % layout.heads_together, LANES)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(layout: Layout, q: Array, k: Array, v: Array, g: Array | None, state: Array):
    return call_by_rows(functools.partial(forward, layout, keep=False), q, k, v, g, state)


def _attend_forward(layout: Layout, q, k, v, g, state):
    call = functools.partial(forward, layout, keep=True)
    *results, entering = call_by_rows(call, q, k, v, g, state)
    return tuple(results), (q, k, v, g, entering)


def _attend_backward(layout: Layout, kept, cotangents):
    do, d_state, *d_sums = cotangents
    d_sums = d_sums[0] if layout.sums else None
    gradients = call_by_rows(functools.partial(backward, layout), *kept, do, d_sums, d_state)
    dq, dk, dv, d_first, *dg = gradients
    return dq, dk, dv, dg[0] if dg else None, d_first


_attend.defvjp(_attend_forward, _attend_backward)


def call_by_rows(call: Callable[..., Sequence[Array]], *rows: PyTree) -> tuple[Array, ...]:
    """Returns `call(*rows)`, of which each device computes its own rows."""
    return by_rows(lambda rows, _: tuple(call(*rows)), rows, ())
