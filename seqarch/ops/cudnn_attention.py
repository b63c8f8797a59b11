"""Attention on an NVIDIA GPU: the form "cudnn" of seqarch.ops.attention, by NVIDIA's library.

It is compiled here for GPUs that are not there; no GPU has run it yet.
"""

import functools

import jax
import jax.numpy as jnp

from seqarch.ops.bias import Gates
from seqarch.ops.blockwise import blockwise
from seqarch.ops.kernels.call import say_once
from seqarch.ops.numerics import fill
from seqarch.ops.online_softmax import Partial
from seqarch.ops.sharded_rows import by_rows, row_devices
from seqarch.ops.visibility import Places, Rule, is_plain
from seqarch.types import Array, Float, Int

IMPLEMENTATION = "cudnn"  # of jax.nn.dot_product_attention
DTYPES = (jnp.bfloat16, jnp.float16)
WIDEST = 128  # channels of a head that it takes on every GPU
CAPABLE = 8.0  # the least compute capability of a GPU for it
# Numbers of tokens and channels that it divides into: JAX refuses gradients of odd numbers of
# tokens.
TOKENS, CHANNELS = 2, 8


def attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G V"],
    at_q: Places,
    at_k: Places,
    rule: Rule,
    *,
    block: int,
    alibi: bool = False,
    gates: tuple[Gates, Gates] | None = None,
    relative: Array | None = None,
) -> Partial:
    """Returns attention by cuDNN, or by the blockwise form where cuDNN does not apply.

    It applies to rows of one document each, in bfloat16 or float16, without biases, and where the
    averages alone are read: JAX rounds the log of their denominator, and has no gradient of it.
    Where dtypes, widths, packed documents or the machine are the reason, one line says so.
    """
    biased = alibi or gates is not None or relative is not None
    applies = is_plain(rule) and rule.alone and rule.order is not None and not biased
    reason = _why_not(q, k, v, rule) if applies else None
    if reason:
        say_once(f"attention: method=blockwise in place of cudnn, as {reason}")
    if reason or not applies:
        bias = dict(alibi=alibi, gates=gates, relative=relative)
        return blockwise(q, k, v, at_q, at_k, rule, block=block, **bias)
    present = (at_k.position >= 0).sum(1, dtype=jnp.int32) if rule.order == "padded" else None
    o = _attend(q, k, v, present, rule)
    if present is not None:
        seen = (at_q.position >= 0) & (present > 0)[:, None]
        o = jnp.where(seen[..., None, None], o, 0)
    return Partial(o, None)


def _attend(
    q: Array, k: Array, v: Array, present: Int[Array, "B"] | None, rule: Rule
) -> Float[Array, "B T H V"]:
    """Returns the averages; `present`: the keys of each row before its absent ones, None: all.

    A causal query sees no absent key, as those are the last.
    """
    (_, T, _, K), (B, S, _, V) = q.shape, v.shape
    width = -(-max(K, V) // CHANNELS) * CHANNELS
    q, k, v = (fill(fill(x, 1, TOKENS), 3, width) for x in (q, k, v))
    window = None
    if rule.causal:
        present = None
        window = None if rule.window is None else (rule.window - 1, 0)  # besides the query's own
    elif present is None and S % TOKENS:
        present = jnp.full((B,), S, jnp.int32)
    if present is not None:
        present = jnp.maximum(present, 1)  # an average of nothing has no value

    def call(rows, _):
        *qkv, present = rows
        how = dict(is_causal=rule.causal, local_window_size=window, scale=K**-0.5)
        how["key_value_seq_lengths"] = present
        return jax.nn.dot_product_attention(*qkv, **how, implementation=IMPLEMENTATION)

    return by_rows(call, (q, k, v, present), None)[:, :T, :, :V]


def _why_not(q: Array, k: Array, v: Array, rule: Rule) -> str | None:
    """Returns why cuDNN cannot compute a plain rule's attention, in words; None: it can."""
    channels = max(q.shape[-1], v.shape[-1])
    if not (q.dtype == k.dtype == v.dtype and q.dtype in DTYPES):
        return f"cuDNN takes bfloat16 or float16, not {q.dtype}"
    if channels > WIDEST:
        return f"heads of {channels} channels are wider than {WIDEST}"
    if rule.order == "packed":
        return "rows may hold several documents"
    if rule.causal and q.shape[1] != k.shape[1]:
        return f"{q.shape[1]} causal queries are not of the same tokens as {k.shape[1]} keys"
    if len(q) % row_devices():
        return f"{len(q)} rows do not divide over {row_devices()} devices"
    return _missing()


@functools.cache
def _missing() -> str | None:
    """Returns what this machine lacks for cuDNN's attention, in words; None: nothing."""
    x = jax.ShapeDtypeStruct((1, TOKENS, 1, CHANNELS), DTYPES[0])
    call = functools.partial(jax.nn.dot_product_attention, implementation=IMPLEMENTATION)
    try:
        jax.eval_shape(call, x, x, x)
    except RuntimeError:
        return "cuDNN is not installed"
    capability = getattr(jax.devices()[0], "compute_capability", None)  # that of a GPU
    if capability is not None and float(capability) < CAPABLE:
        return f"the GPU has compute capability {capability}, less than {CAPABLE}"
    return None
