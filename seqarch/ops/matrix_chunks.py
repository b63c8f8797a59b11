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
from seqarch.ops.decay import LogSum, decayed, log_sums, scores
from seqarch.ops.numerics import dot, segments
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
    q, k, p, r = c.q, c.k, c.k if c.p is None else c.p, c.r
    last = jnp.ones((1, 1, 1, 1))  # the sign of the decay over the chunk
    if c.negative is not None:
        sign = jnp.cumprod(signed(jnp.ones(c.negative.shape), c.negative), axis=1)
        before = signed(sign, c.negative)  # the product without the token's own sign
        sign, before = (x if x.ndim == 4 else x[..., None] for x in (sign, before))
        q, k, p, r = q * sign, k * sign, p * sign, None if r is None else r * before
        last = sign[:, -1:]
    sums = None
    decay = jnp.moveaxis(last, 1, -1)
    if c.log_decay is not None:
        sums = log_sums(c.log_decay)
        factor = jnp.exp(sums.value[:, -1])
        decay = decay * factor.reshape(*factor.shape[:2], -1, 1)
    visible, enters, leaves = _visibility(c)
    decay = decay * enters[:, -1, None, None, None]
    qk, qp, rk, rp = scores(q, k, None if c.p is None else p, r, sums, visible)
    erased = None
    if r is not None:
        W, Z = _eliminate(rp, _entering(r, sums and sums.before, enters), rk, c.v)
        erased = Erased(_leaving(p * last, sums, leaves), qp, W, Z)
    q = _entering(q, sums and sums.value, enters)
    k = _leaving(k * last.astype(k.dtype), sums, leaves)
    return Solved(q, k, c.v, qk.astype(c.v.dtype), decay, erased)


def _visibility(c: Tokens) -> tuple[Bool[Array, "#B C C"], Float[Array, "#B C"], Array]:
    """Returns which keys a query sees, and which tokens share the state that enters and leaves."""
    visible = jnp.tril(jnp.ones((c.q.shape[1],) * 2, bool))[None]
    if c.starts is None:
        ones = jnp.ones((1, c.q.shape[1]))
        return visible, ones, ones
    segment = segments(c.starts)
    visible = visible & (segment[:, :, None] == segment[:, None, :])
    return visible, 1.0 * (segment == 0), 1.0 * (segment == segment[:, -1:])


def _entering(q: Array, upto: Array | None, enters: Float[Array, "#B C"]) -> Array:
    """Returns queries as they read the state that enters the chunk, `upto` log-decays ago."""
    q = q.astype(jnp.float32) if upto is None else decayed(q, upto)
    return q * enters[..., None, None]


def _leaving(k: Array, sums: LogSum | None, leaves: Float[Array, "#B C"]) -> Array:
    """Returns keys as they are in the state that leaves the chunk."""
    after = k if sums is None else decayed(k, sums.at(slice(-1, None)).minus(sums))
    return (after * leaves[..., None, None]).astype(k.dtype)


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
    after = c.decay * state + dot("bshk,bshv->bhkv", c.k, c.v)
    if c.erased is not None:
        p, qp, W, Z = c.erased
        u = Z + dot("bhtk,bhkv->bhtv", W, state)
        o = o - dot("bhts,bhsv->bthv", qp, u)
        after = after - dot("bshk,bhsv->bhkv", p, u)
    return after, o.astype(c.v.dtype)


def signed(x: Array, negative: Bool[Array, "..."]) -> Array:
    """Returns x, negated where `negative` holds."""
    return jnp.where(negative, -x, x)
