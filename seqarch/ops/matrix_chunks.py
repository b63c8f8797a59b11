"""Chunks of linear attention, in terms of the state that enters them.

With the delta rule, u_t = S_{t-1}^T r_t is what the state holds at r_t. Unrolled from the state S
that enters the chunk, with the decays D between tokens, it solves a triangular system:

    u_t = (D_{t-1} r_t)^T S + sum_{s<t} (r_t^T D_{t-1,s} k_s) v_s - (r_t^T D_{t-1,s} p_s) u_s

so that U = W S + Z, which is the WY form of a product of Householder matrices. Where p is k, the
state takes V - U at each key, and V - Z = T V for the inverse T of the system's matrix.

Source: Yang et al. 2024, "Parallelizing linear transformers with the delta rule over sequence
length", section 3.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from seqarch.ops import affine
from seqarch.ops.channel_decay import by_channel
from seqarch.ops.decay import by_head
from seqarch.ops.numerics import dot, segments, spread
from seqarch.ops.triangular import unit_inverse
from seqarch.types import Array, Bool, DTypeLike, Float


class Tokens(NamedTuple):
    """What some tokens do to a state: the arguments of `seqarch.ops.linear_attention`."""

    q: Float[Array, "B T H K"]
    k: Float[Array, "B T H K"]
    v: Float[Array, "B T H V"]
    log_decay: Float[Array, "B T H *K"] | None = None
    p: Float[Array, "B T H K"] | None = None
    r: Float[Array, "B T H K"] | None = None
    negative: Bool[Array, "B T H *K"] | None = None
    starts: Bool[Array, "B T"] | None = None


class Solved(NamedTuple):
    """A chunk in terms of the state S that enters it.

    q: queries that read S, decayed from it
    k: keys, decayed to the end of the chunk
    v: values; T V where the delta rule erases at k
    qk: what each query reads of each value within the chunk
    decay: of S over the chunk
    W: what the delta rule erases of S; None: nothing
    apart: what it erases at other keys than k; None: nothing
    """

    q: Float[Array, "B C H K"]
    k: Float[Array, "B C H K"]
    v: Float[Array, "B C H V"]
    qk: Float[Array, "B H C C"]
    decay: Float[Array, "#B #H #K 1"]
    W: Float[Array, "B H C K"] | None
    apart: "Apart | None"


class Apart(NamedTuple):
    """What the delta rule erases at keys of its own.

    p: the keys at which it erases, decayed to the end of the chunk
    qp: what each query reads of each erased value
    Z: what is erased beside W S
    """

    p: Float[Array, "B C H K"]
    qp: Float[Array, "B H C C"]
    Z: Float[Array, "B C H V"]


def recurrence(tokens: Tokens) -> affine.Recurrence:
    """Returns the recurrence of tokens, for the forms of seqarch/ops/affine.py."""
    advance = partial(_advance, tokens.v.dtype)
    read = lambda chunk, state: advance(chunk, state)[1]
    return affine.Recurrence(_summarise, read, identity(tokens), _solve, advance)


def identity(tokens: Tokens) -> Tokens:
    """Returns the values with which a token leaves the state alone, where `tokens` has arrays."""
    nothing = Tokens(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, False, False)
    return Tokens(*(None if x is None else fill for x, fill in zip(tokens, nothing)))


def _solve(c: Tokens) -> Solved:
    """Returns a chunk in terms of the state that enters it."""
    q, k, p, r, sign = _with_signs(c)
    visible, enters, leaves = _visibility(c)
    reads, writes = [q], [k] if c.p is None else [k, p]
    if r is not None:  # it reads the state before its token, and so decays as a query there
        reads.append(jnp.roll(r, -1, axis=1))
    per_channel = c.log_decay is not None and c.log_decay.ndim == 4
    within = (by_channel if per_channel else by_head)(reads, writes, c.log_decay)
    enter = lambda x: x.astype(jnp.float32) * enters[..., None, None]
    seen = lambda scores, visible: jnp.where(visible[:, None], scores, 0.0)
    qk, qp = (seen(within.scores[:, :, 0, w], visible) for w in (0, -1))
    ends = [(x * sign * leaves[..., None, None]).astype(k.dtype) for x in within.writes]
    v, W, apart = c.v, None, None
    if r is None:
        qk = qk.astype(v.dtype)
    else:
        strict = visible & ~jnp.eye(q.shape[1], dtype=bool)[None]
        moved = jnp.roll(within.scores[:, :, 1], 1, axis=3)
        rk, rp = (seen(moved[:, :, w], strict) for w in (0, -1))
        first = jnp.arange(r.shape[1])[:, None, None] == 0
        r = enter(jnp.where(first, r, jnp.roll(within.reads[1], 1, axis=1)))
        inverse = unit_inverse(rp)  # (I + rp) (W, Z) = (r, rk v)
        W = dot("bhts,bshk->bhtk", inverse, r)
        solved = inverse if c.p is None else dot("bhtu,bhus->bhts", inverse, rk)
        solved = dot("bhts,bshv->bthv", solved, v)
        v, apart = (solved, None) if c.p is None else (v, Apart(ends[1], qp, solved))
    decay = within.decay.reshape(*within.decay.shape[:2], -1, 1) * jnp.moveaxis(sign, 1, -1)
    decay = decay * enters[:, -1, None, None, None]
    return Solved(enter(within.reads[0]), ends[0], v, qk, decay, W, apart)


def _with_signs(c: Tokens) -> tuple[Array, Array, Array, Array | None, Float[Array, "#B 1 #H #K"]]:
    """Returns q, k, p and r with the signs of decays, and the sign of the chunk's decay."""
    q, k, p, r = c.q, c.k, c.k if c.p is None else c.p, c.r
    if c.negative is None:
        return q, k, p, r, jnp.ones((1, 1, 1, 1))
    sign = jnp.cumprod(signed(jnp.ones(c.negative.shape), c.negative), axis=1)
    before = signed(sign, c.negative)  # the product without the token's own sign
    sign, before = (x if x.ndim == 4 else x[..., None] for x in (sign, before))
    return q * sign, k * sign, p * sign, None if r is None else r * before, sign[:, -1:]


def _visibility(c: Tokens) -> tuple[Bool[Array, "#B C C"], Float[Array, "#B C"], Array]:
    """Returns which keys a query sees, and which tokens share the state that enters and leaves."""
    visible = jnp.tril(jnp.ones((c.q.shape[1],) * 2, bool))[None]
    if c.starts is None:
        ones = jnp.ones((1, c.q.shape[1]))
        return visible, ones, ones
    segment = segments(c.starts)
    visible = visible & (segment[:, :, None] == segment[:, None, :])
    return visible, 1.0 * (segment == 0), 1.0 * (segment == segment[:, -1:])


def _summarise(c: Solved) -> affine.Affine | affine.MatrixAffine:
    value = dot("bshk,bshv->bhkv", c.k, c.v)
    if c.W is None:
        return affine.Affine(c.decay, value)
    p = c.k if c.apart is None else c.apart.p
    decay = c.decay * jnp.eye(p.shape[-1])[None, None] - dot("bshk,bhsj->bhkj", p, c.W)
    if c.apart is not None:
        value = value - dot("bshk,bshv->bhkv", p, c.apart.Z)
    return affine.MatrixAffine(decay, value)


def _advance(
    dtype: DTypeLike, c: Solved, state: Float[Array, "B H K V"]
) -> tuple[Float[Array, "B H K V"], Float[Array, "B C H V"]]:
    """Returns the state that leaves a chunk, and its outputs in `dtype`."""
    v, u = c.v, None if c.W is None else dot("bhtk,bhkv->bthv", c.W, state)
    if u is not None and c.apart is None:
        v = v - u
    o = dot("bhts,bshv->bthv", c.qk, v) + dot("bthk,bhkv->bthv", c.q, state)
    decay = jnp.broadcast_to(c.decay[..., 0], (*c.decay.shape[:2], state.shape[2]))
    after = spread(decay, state.shape[3]) * state + dot("bshk,bshv->bhkv", c.k, v)
    if c.apart is not None:
        u = c.apart.Z + u
        o = o - dot("bhts,bshv->bthv", c.apart.qp, u)
        after = after - dot("bshk,bshv->bhkv", c.apart.p, u)
    return after, o.astype(dtype)


def signed(x: Array, negative: Bool[Array, "..."]) -> Array:
    """Returns x, negated where `negative` holds."""
    return jnp.where(negative, -x, x)
