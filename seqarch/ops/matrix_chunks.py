"""Chunks of linear attention, in terms of the state that enters them.

With the delta rule, u_t = S_{t-1}^T r_t is what the state holds at r_t. Unrolled from the state S
that enters the chunk, with the decays D between tokens, it solves a triangular system:

    u_t = (D_{t-1} r_t)^T S + sum_{s<t} (r_t^T D_{t-1,s} k_s) v_s - (r_t^T D_{t-1,s} p_s) u_s

so that U = W S + Z, which is the WY form of a product of Householder matrices.

Source: Yang et al. 2024, "Parallelizing linear transformers with the delta rule over sequence
length", section 3.
"""

from typing import NamedTuple

import jax.numpy as jnp

from seqarch.ops import affine
from seqarch.ops.channel_decay import by_channel
from seqarch.ops.decay import by_head
from seqarch.ops.numerics import dot, segments, spread
from seqarch.ops.triangular import unit_inverse
from seqarch.types import Array, Bool, Float


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
    v: values
    qk: what each query reads of each value within the chunk
    decay: of S over the chunk
    erased: what the delta rule erases; None: nothing
    """

    q: Float[Array, "B C H K"]
    k: Float[Array, "B C H K"]
    v: Float[Array, "B C H V"]
    qk: Float[Array, "B H C C"]
    decay: Float[Array, "#B #H #K 1"]
    erased: "Erased | None"


class Erased(NamedTuple):
    """What the delta rule erases in a chunk, U = W S + Z.

    p: the keys at which it erases, decayed to the end of the chunk
    qp: what each query reads of each erased value
    W, Z: what is erased, in terms of the state S that enters the chunk
    """

    p: Float[Array, "B C H K"]
    qp: Float[Array, "B H C C"]
    W: Float[Array, "B H C K"]
    Z: Float[Array, "B H C V"]


def recurrence(tokens: Tokens) -> affine.Recurrence:
    """Returns the recurrence of tokens, for the forms of seqarch/ops/affine.py."""
    return affine.Recurrence(_summarise, _read, identity(tokens), _solve, _advance)


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
    erased = None
    if r is not None:
        strict = visible & ~jnp.eye(q.shape[1], dtype=bool)[None]
        moved = jnp.roll(within.scores[:, :, 1], 1, axis=3)
        rk, rp = (seen(moved[:, :, w], strict) for w in (0, -1))
        first = jnp.arange(r.shape[1])[:, None, None] == 0
        r = enter(jnp.where(first, r, jnp.roll(within.reads[1], 1, axis=1)))
        erased = Erased(ends[-1], qp, *_eliminate(rp, r, rk, c.v))
    decay = within.decay.reshape(*within.decay.shape[:2], -1, 1) * jnp.moveaxis(sign, 1, -1)
    decay = decay * enters[:, -1, None, None, None]
    return Solved(enter(within.reads[0]), ends[0], c.v, qk.astype(c.v.dtype), decay, erased)


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


def _eliminate(
    rp: Float[Array, "B H C C"],
    r: Float[Array, "B C H K"],
    rk: Float[Array, "B H C C"],
    v: Float[Array, "B C H V"],
) -> tuple[Float[Array, "B H C K"], Float[Array, "B H C V"]]:
    """Solves (I + rp) (W, Z) = (r, rk v), where rp is strictly lower triangular."""
    inverse = unit_inverse(rp)
    W = dot("bhts,bshk->bhtk", inverse, r)
    return W, dot("bhts,bshv->bhtv", dot("bhtu,bhus->bhts", inverse, rk), v)


def _summarise(c: Solved) -> affine.Affine | affine.MatrixAffine:
    value = dot("bshk,bshv->bhkv", c.k, c.v)
    if c.erased is None:
        return affine.Affine(c.decay, value)
    p, _, W, Z = c.erased
    decay = c.decay * jnp.eye(p.shape[-1])[None, None] - dot("bshk,bhsj->bhkj", p, W)
    return affine.MatrixAffine(decay, value - dot("bshk,bhsv->bhkv", p, Z))


def _read(c: Solved, state: Float[Array, "B H K V"]) -> Float[Array, "B C H V"]:
    return _advance(c, state)[1]


def _advance(
    c: Solved, state: Float[Array, "B H K V"]
) -> tuple[Float[Array, "B H K V"], Float[Array, "B C H V"]]:
    """Returns the state that leaves a chunk, and its outputs."""
    o = dot("bhts,bshv->bthv", c.qk, c.v) + dot("bthk,bhkv->bthv", c.q, state)
    decay = jnp.broadcast_to(c.decay[..., 0], (*c.decay.shape[:2], state.shape[2]))
    after = spread(decay, state.shape[3]) * state + dot("bshk,bshv->bhkv", c.k, c.v)
    if c.erased is not None:
        p, qp, W, Z = c.erased
        u = Z + dot("bhtk,bhkv->bhtv", W, state)
        o = o - dot("bhts,bhsv->bthv", qp, u)
        after = after - dot("bshk,bhsv->bhkv", p, u)
    return after, o.astype(c.v.dtype)


def signed(x: Array, negative: Bool[Array, "..."]) -> Array:
    """Returns x, negated where `negative` holds."""
    return jnp.where(negative, -x, x)
