"""The diagonal linear recurrence h_t = a_t h_{t-1} + b_t of minGRU, RG-LRU and S5.

Source: Martin and Cundy 2018, "Parallelizing linear recurrent neural nets over sequence length",
section 2.
"""

import jax
import jax.numpy as jnp

from seqarch.ops import affine
from seqarch.ops.forms import Forms
from seqarch.ops.numerics import behind
from seqarch.types import Array, Bool, Inexact

# On a CPU a chunk's prefixes cost 2 to 8 times as much as the loop over tokens, in training.
FORMS = Forms(affine.FORMS, cpu="sequential", accelerator="parallel")


def _prefixes(chunk: affine.Affine) -> affine.Affine:
    return jax.lax.associative_scan(affine.compose, chunk, axis=1)


RECURRENCE = affine.Recurrence(
    summarise=lambda chunk: jax.tree.map(lambda x: x[:, -1], _prefixes(chunk)),
    read=lambda chunk, h: _prefixes(chunk)(h[:, None]),
    identity=affine.Affine(decay=1.0, value=0.0),
)


def linear_scan(
    a: Inexact[Array, "B T *X"],
    b: Inexact[Array, "B T *X"],
    h0: Inexact[Array, "B *X"] | None = None,
    *,
    starts: Bool[Array, "B T"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
    method: str = "auto",
    chunk: int = 64,
) -> tuple[Inexact[Array, "B T *X"], Inexact[Array, "B *X"]]:
    """Returns all states h [B,T,...] and the last one, in float32; in complex64 if b is complex.

    Args:
      a: decays.
      b: inputs.
      h0: the state before the first token; None: zeros.
      starts: whether the state is forgotten before a token.
      valid: whether a token exists; where it does not, the state stays as it is.
      method: a name in FORMS, or "auto".
      chunk: tokens of a chunk.
    """
    a, b = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (a, b))
    h0 = jnp.zeros_like(b[:, 0]) if h0 is None else h0
    if valid is not None:
        a, b = (jnp.where(behind(valid, x), x, idle) for x, idle in ((a, 1.0), (b, 0.0)))
    if starts is not None:
        a = jnp.where(behind(starts, a), 0.0, a)
    return FORMS.pick(method)(RECURRENCE, affine.Affine(a, b), h0, chunk=chunk)
