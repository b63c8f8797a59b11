"""Linear attention: a matrix-valued state that keys write, queries read and a delta rule erases.

    S_t = diag(a_t) S_{t-1} - p_t (r_t^T S_{t-1}) + k_t v_t^T,    o_t = S_t^T q_t

The decay |a_t| = exp(g_t) is per head or per key channel, or 1; it may be negative. Without r
nothing is erased, and without p what is erased is at k. There is no feature map, scaling or
normaliser.

Source: Katharopoulos et al. 2020, "Transformers are RNNs", equations 16-20; Dao and Gu 2024,
"Transformers are SSMs", section 6 (decay per head); Yang et al. 2023, "Gated linear attention
transformers with hardware-efficient training", section 4 (decay per key channel); Yang et al. 2024,
"Parallelizing linear transformers with the delta rule over sequence length", section 2.
"""

import jax.numpy as jnp

from seqarch.ops import affine
from seqarch.ops.forms import Forms, Kernel
from seqarch.ops.matrix_chunks import Tokens, identity, recurrence, signed
from seqarch.ops.numerics import behind, dot
from seqarch.types import Array, Bool, Float


def linear_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    log_decay: Float[Array, "B T H *K"] | None = None,
    state: Float[Array, "B H K V"] | None = None,
    *,
    p: Float[Array, "B T H K"] | None = None,
    r: Float[Array, "B T H K"] | None = None,
    negative: Bool[Array, "B T H *K"] | None = None,
    starts: Bool[Array, "B T"] | None = None,
    method: str = "auto",
    chunk: int = 64,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Returns the outputs in v's dtype and the final state in float32.

    Args:
      q: queries.
      k: keys.
      v: values.
      log_decay: g = log |a| <= 0, per head or per key channel; None: no decay.
      state: before the first token; None: zeros.
      p: keys at which the delta rule erases; None: k.
      r: keys at which it reads what it erases; None: nothing is erased.
      negative: where the decay a is negative; None: nowhere.
      starts: whether the state is forgotten before a token.
      method: a name in FORMS, or "auto".
      chunk: tokens of a chunk; "pallas" has its own.
    """
    if state is None:
        state = jnp.zeros((q.shape[0], *q.shape[2:], v.shape[-1]), jnp.float32)
    tokens = Tokens(q, k, v, log_decay, p, r, negative, starts)
    return FORMS.pick(method)(recurrence(tokens), tokens, state, chunk=chunk)


def linear_attention_and_sums(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    log_decay: Float[Array, "B T H *K"] | None,
    state: Float[Array, "B H K V"],
    sums: Float[Array, "B H K"],
    *,
    starts: Bool[Array, "B T"] | None = None,
    method: str = "auto",
    chunk: int = 64,
) -> tuple[
    Float[Array, "B T H V"], Float[Array, "B T H"], Float[Array, "B H K V"], Float[Array, "B H K"]
]:
    """Returns o, n, S and z: those of `linear_attention`, and of the sum of keys that q . z reads.

        z_t = a_t z_{t-1} + k_t,    n_t = z_t . q_t

    It is one more value channel, of ones. n is in v's dtype or float32, the states in float32.

    Args:
      q, k, v, log_decay, state, starts, method, chunk: those of `linear_attention`.
      sums: z before the first token.
    """
    run, tokens = FORMS.pick(method), Tokens(q, k, v, log_decay, starts=starts)
    if run is _pallas:
        from seqarch.ops.kernels import linear_attention as kernel

        if kernel.takes(tokens, otherwise=ACCELERATOR):
            return kernel.linear_attention(tokens, state, sums)
    tokens = tokens._replace(v=jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1))
    state = jnp.concatenate([state, sums[..., None]], axis=-1)
    o, S = run(recurrence(tokens), tokens, state, chunk=chunk)
    return o[..., :-1], o[..., -1], S[..., :-1], S[..., -1]


def linear_attention_step(
    tokens: Tokens, state: Float[Array, "B H K V"]
) -> tuple[Float[Array, "B H V"], Float[Array, "B H K V"]]:
    """Computes `linear_attention` for one token a row, whose arrays have no axis T."""
    q, k, v, log_decay, p, r, negative, _ = tokens
    S = state.astype(jnp.float32)
    u = None if r is None else dot("bhk,bhkv->bhv", r.astype(jnp.float32), S)
    if log_decay is not None:
        a = jnp.exp(log_decay) if negative is None else signed(jnp.exp(log_decay), negative)
        S = S * a.reshape(*a.shape[:2], -1, 1)
    if u is not None:
        S = S - dot("bhk,bhv->bhkv", (k if p is None else p).astype(jnp.float32), u)
    S = S + dot("bhk,bhv->bhkv", k, v)
    return dot("bhk,bhkv->bhv", q.astype(jnp.float32), S).astype(v.dtype), S


def linear_attention_and_sums_step(
    tokens: Tokens, state: Float[Array, "B H K V"], sums: Float[Array, "B H K"]
) -> tuple[
    Float[Array, "B H V"], Float[Array, "B H"], Float[Array, "B H K V"], Float[Array, "B H K"]
]:
    """Computes `linear_attention_and_sums` for one token a row, whose arrays have no axis T."""
    o, S = linear_attention_step(tokens, state)
    z = sums.astype(jnp.float32)
    if tokens.log_decay is not None:
        a = jnp.exp(tokens.log_decay)
        z = z * a.reshape(*a.shape[:2], -1)
    z = z + tokens.k.astype(jnp.float32)
    return o, dot("bhk,bhk->bh", tokens.q.astype(jnp.float32), z), S, z


def _pallas(
    of: affine.Recurrence, tokens: Tokens, state: Float[Array, "B H K V"], *, chunk: int
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Computes a recurrence by kernels, or by ACCELERATOR where they do not have it."""
    from seqarch.ops.kernels import channel_decay, delta_rule, linear_attention

    if linear_attention.takes(tokens, otherwise=ACCELERATOR):
        o, _, S, _ = linear_attention.linear_attention(tokens, state)
        return o, S
    if delta_rule.takes(tokens, otherwise=ACCELERATOR):
        return delta_rule.delta_rule(tokens, state)
    if channel_decay.takes(tokens, otherwise=ACCELERATOR):
        return channel_decay.linear_attention(tokens, state)
    return affine.FORMS[ACCELERATOR](of, tokens, state, chunk=chunk)


def _triton(
    of: affine.Recurrence, tokens: Tokens, state: Float[Array, "B H K V"], *, chunk: int
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Computes a recurrence by kernels for a GPU, or by ACCELERATOR where they do not have it."""
    from seqarch.ops.kernels import linear_attention_gpu as kernel

    if kernel.takes(tokens, otherwise=ACCELERATOR):
        return kernel.linear_attention(tokens, state)
    return affine.FORMS[ACCELERATOR](of, tokens, state, chunk=chunk)


ACCELERATOR = "parallel"
FORMS = Forms(
    affine.FORMS,
    cpu="chunked",
    accelerator=ACCELERATOR,
    tpu="pallas",
    kernels={"triton": Kernel("gpu", _triton), "pallas": Kernel("tpu", _pallas)},
)


def idle(tokens: Tokens, valid: Bool[Array, "B T"]) -> Tokens:
    """Returns the tokens with those that are not valid leaving the state alone."""

    def keep(x: Array | None, otherwise: float | None) -> Array | None:
        if x is None:
            return None
        return jnp.where(behind(valid, x), x, otherwise)

    kept = Tokens(*map(keep, tokens, identity(tokens)))
    # Without k and p, the others change nothing.
    return kept._replace(q=tokens.q, v=tokens.v, r=tokens.r)
