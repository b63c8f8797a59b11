"""Linear attention with no decay or one per head as kernels for a GPU, through Triton.

A program takes a head of a row through its chunks, and its state stays in registers. For the
backward pass only the states that enter chunks are kept. The equations are those of
seqarch.ops.kernels.linear_attention_chunks.

It is compiled here for GPUs that are not there; no GPU has run it yet.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from seqarch.ops.kernels.call import kernel_call, say_once
from seqarch.ops.kernels.linear_attention import call_by_rows, decays_per_head, log_decays
from seqarch.ops.kernels.linear_attention_heads import GRID
from seqarch.ops.kernels.matrices import COLUMNS, ROWS, iota, product
from seqarch.ops.matrix_chunks import Tokens
from seqarch.ops.numerics import fill
from seqarch.ops.sharded_rows import row_devices
from seqarch.types import Array, Float

# Tokens of a chunk, and the most channels of keys and of values, by the bytes of a number. With
# larger ones NVIDIA's assembler moves many numbers from registers to memory; in bfloat16 some, from
# 65 channels on.
CHUNKS, WIDEST = {2: 32, 4: 16}, {2: 128, 4: 64}
LEAST = 16  # channels that a product takes
PARAMETERS = plgpu.CompilerParams(num_warps=8, num_stages=1)


def takes(tokens: Tokens, otherwise: str) -> bool:
    """Returns whether the kernels compute a recurrence; says it once where they do not.

    Args:
      tokens: of the recurrence.
      otherwise: the name of the form that computes it else.
    """
    if reason := _why_not(tokens):
        say_once(f"linear_attention: method={otherwise} in place of triton, as {reason}")
    return reason is None


def _why_not(tokens: Tokens) -> str | None:
    """Returns why the kernels cannot compute a recurrence, in words; None: they can."""
    batch, channels = len(tokens.q), max(tokens.q.shape[3], tokens.v.shape[3])
    most, dtype = WIDEST.get(_dtype(tokens).itemsize, 0), _dtype(tokens)
    if not decays_per_head(tokens):
        return "the state is erased, or decays are per channel or negative"
    if channels > most:
        return f"heads of {channels} channels in {dtype} are wider than {most}"
    if batch % row_devices():
        return f"{batch} rows do not divide over {row_devices()} devices"
    return None


def linear_attention(
    tokens: Tokens, state: Float[Array, "B H K V"]
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Returns the outputs in v's dtype, and the final state in float32.

    Args:
      tokens: that the kernels take.
      state: before the first token, in float32.
    """
    (_, T, H, K), V, dtype = tokens.q.shape, tokens.v.shape[3], tokens.v.dtype
    key, value, common = _width(K), _width(V), _dtype(tokens)
    chunk = CHUNKS[common.itemsize]
    q, k, v = (fill(x.astype(common), 1, chunk) for x in (tokens.q, tokens.k, tokens.v))
    g = log_decays(tokens)
    g = jnp.zeros((len(q), T, H)) if g is None else g
    g = jnp.swapaxes(fill(g, 1, chunk), 1, 2)
    state = fill(fill(state, 2, key), 3, value)
    o, S = _attend(fill(q, 3, key), fill(k, 3, key), fill(v, 3, value), g, state)
    return o[:, :T, :, :V].astype(dtype), S[:, :, :K, :V]


def _dtype(tokens: Tokens) -> jnp.dtype:
    return jnp.result_type(tokens.q, tokens.k, tokens.v)


def _width(channels: int) -> int:
    """Returns the channels of a head with those that are added to be a power of two."""
    return max(LEAST, 2 ** (channels - 1).bit_length())


@jax.custom_vjp
def _attend(q, k, v, g, state):
    return tuple(call_by_rows(functools.partial(_forward, keep=False), q, k, v, g, state))


def _attend_forward(q, k, v, g, state):
    *results, entering = call_by_rows(functools.partial(_forward, keep=True), q, k, v, g, state)
    return tuple(results), (q, k, v, g, entering)


def _attend_backward(kept, cotangents):
    return call_by_rows(_backward, *kept, *cotangents)


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(q, k, v, g, state, keep: bool) -> tuple[Array, ...]:
    """Returns outputs, final state, and the states [B,M,H,K,V] that enter chunks if kept."""
    blocks, shapes = _blocks(q, v), [v, state]
    if keep:
        count = q.shape[1] // CHUNKS[q.dtype.itemsize]
        shapes.append(jax.ShapeDtypeStruct((len(q), count, *state.shape[1:]), k.dtype))
    given = blocks.keys, blocks.keys, blocks.values, blocks.gates, blocks.state
    return kernel_call(
        _forward_body,
        grid=(len(q), q.shape[2]),
        in_specs=list(given),
        out_specs=[blocks.values, blocks.state, *[blocks.entering] * keep],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in shapes],
        compiler_params=PARAMETERS,
        name="linear_attention",
    )(q, k, v, g, state)


def _backward(q, k, v, g, entering, do, d_state) -> tuple[Array, ...]:
    """Returns the gradients of q, k, v, g and the first state."""
    blocks = _blocks(q, v)
    of = blocks.keys, blocks.keys, blocks.values, blocks.gates
    return kernel_call(
        _backward_body,
        grid=(len(q), q.shape[2]),
        in_specs=[*of, blocks.entering, blocks.values, blocks.state],
        out_specs=[*of, blocks.state],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v, g, d_state)],
        compiler_params=PARAMETERS,
        name="linear_attention_backward",
    )(q, k, v, g, entering, do, d_state)


class _Blocks(NamedTuple):
    """What a program reads and writes, of a head of a row.

    Attributes:
      keys, values: of [B, T, H, ...].
      gates: of [B, H, T].
      state: of [B, H, K, V].
      entering: of [B, M, H, K, V].
    """

    keys: pl.BlockSpec
    values: pl.BlockSpec
    gates: pl.BlockSpec
    state: pl.BlockSpec
    entering: pl.BlockSpec


def _blocks(q: Float[Array, "B T H K"], v: Float[Array, "B T H V"]) -> _Blocks:
    (_, T, _, K), V, chunk = q.shape, v.shape[3], CHUNKS[q.dtype.itemsize]
    tokens = lambda width: pl.BlockSpec((None, T, None, width), lambda b, h: (b, 0, h, 0))
    gates = pl.BlockSpec((None, None, T), lambda b, h: (b, h, 0))
    state = pl.BlockSpec((None, None, K, V), lambda b, h: (b, h, 0, 0))
    entering = pl.BlockSpec((None, T // chunk, None, K, V), lambda b, h: (b, 0, h, 0, 0))
    return _Blocks(tokens(K), tokens(V), gates, state, entering)


class _Decays:
    """Decays of a chunk's tokens, from their log-decays [C].

    Cumulative sums are of two parts, as in seqarch.ops.decay, so that differences of large ones
    keep the small logs between them.

    Attributes:
      between: from token s to token t [C, C], 0 where s comes later.
      entering: from before the chunk until each token [C, 1].
      leaving: from each token until the last [C, 1].
      over: over the chunk.
    """

    def __init__(self, g: Array):
        coarse = jnp.floor(g / GRID + 0.5) * GRID
        parts, seen = (coarse, g - coarse), _lower(len(g))
        sums = [jnp.where(seen, part[None], 0.0).sum(COLUMNS) for part in parts]
        apart = sum(part[:, None] - part[None] for part in sums)
        self.between = jnp.where(seen, jnp.exp(jnp.where(seen, apart, 0.0)), 0.0)
        self.entering = jnp.exp(sum(sums))[:, None]
        rest = (part.sum() - until for part, until in zip(parts, sums, strict=True))
        self.leaving = jnp.exp(sum(rest))[:, None]
        self.over = jnp.exp(g.sum())


def _lower(size: int) -> Array:
    """Returns where a column is not behind the diagonal, [C, C]."""
    return iota((size, size), COLUMNS) <= iota((size, size), ROWS)


def _forward_body(q_ref, k_ref, v_ref, g_ref, first_ref, o_ref, last_ref, *entering: Any) -> None:
    chunk = CHUNKS[q_ref.dtype.itemsize]

    def turn(m: Array, S: Float[Array, "K V"]) -> Float[Array, "K V"]:
        for ref in entering:
            ref[m] = S.astype(ref.dtype)
        t = pl.ds(m * chunk, chunk)
        q, k, v, decay = q_ref[t], k_ref[t], v_ref[t], _Decays(g_ref[t])
        scores = product(q, k, COLUMNS, COLUMNS) * decay.between
        o = product(q, S.astype(q.dtype), COLUMNS, ROWS) * decay.entering
        o_ref[t] = (o + product(scores.astype(v.dtype), v, COLUMNS, ROWS)).astype(o_ref.dtype)
        written = (v * decay.leaving).astype(v.dtype)
        return S * decay.over + product(k, written, ROWS, ROWS)

    last_ref[...] = jax.lax.fori_loop(0, q_ref.shape[0] // chunk, turn, first_ref[...])


def _backward_body(
    q_ref, k_ref, v_ref, g_ref, entering_ref, do_ref, last_ref, dq_ref, dk_ref, dv_ref, dg_ref, to
) -> None:
    chunk = CHUNKS[q_ref.dtype.itemsize]
    count = q_ref.shape[0] // chunk

    def turn(m: Array, dS: Float[Array, "K V"]) -> Float[Array, "K V"]:
        m = count - 1 - m
        t = pl.ds(m * chunk, chunk)
        q, k, v, do, decay = q_ref[t], k_ref[t], v_ref[t], do_ref[t], _Decays(g_ref[t])
        S, dS_rounded, d_kept = entering_ref[m], dS.astype(k.dtype), dS * decay.over
        d_read = (do * decay.entering).astype(do.dtype)
        written = (v * decay.leaving).astype(v.dtype)
        scores = (product(q, k, COLUMNS, COLUMNS) * decay.between).astype(do.dtype)
        d_scores = (product(do, v, COLUMNS, COLUMNS) * decay.between).astype(k.dtype)
        dv = product(k, dS_rounded, COLUMNS, ROWS) * decay.leaving
        dv_ref[t] = (dv + product(scores, do, ROWS, ROWS)).astype(dv_ref.dtype)
        dq = product(d_read, S, COLUMNS, COLUMNS) + product(d_scores, k, COLUMNS, ROWS)
        dk_leaving = product(written, dS_rounded, COLUMNS, COLUMNS)
        dk = dk_leaving + product(d_scores, q, ROWS, ROWS)
        dq_ref[t], dk_ref[t] = dq.astype(dq_ref.dtype), dk.astype(dk_ref.dtype)
        dG = (q * dq - k * dk).sum(COLUMNS)
        d_all = (k * dk_leaving).sum() + (d_kept * S).sum()
        dg_ref[t] = jnp.where(_lower(chunk), dG[:, None], 0.0).sum(ROWS) + d_all
        return d_kept + product(q, d_read, ROWS, ROWS)

    to[...] = jax.lax.fori_loop(0, count, turn, last_ref[...])
