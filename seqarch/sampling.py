"""Draws tokens from logits, by temperature, top-k and top-p."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.errors import UserError
from seqarch.types import Array, Bool, Float, Int

ROUNDING = 1e-6  # error of a cumulative sum of probabilities in float32


class Sampling(NamedTuple):
    """How a token is drawn from logits.

    temperature: divides the logits; 0 takes the most likely token
    top_k: draws among the k most likely tokens; 0 for all
    top_p: draws among the fewest tokens whose probabilities add up to this (Holtzman et al. 2019,
      "The curious case of neural text degeneration", section 3.1)
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def check(self) -> "Sampling":
        """Returns itself; raises UserError where a value is out of range."""
        temperature, top_k, top_p = self
        whole = isinstance(top_k, (int, np.integer)) and not isinstance(top_k, bool)
        if not (0 <= temperature < math.inf and whole and top_k >= 0 and 0 < top_p <= 1):
            raise UserError(
                f"{self}: give a finite temperature and a whole top_k, both of at least 0, and "
                "a top_p in (0, 1]"
            )
        return self


def sample(logits: Float[Array, "B Y"], sampling: Sampling, key: Array) -> Int[Array, "B"]:
    """Returns one token for each row of logits.

    Of equally likely tokens, `top_k` and `top_p` keep those with the lower ids.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits.astype(jnp.float32)
    temperature = max(sampling.temperature, float(jnp.finfo(jnp.float32).tiny))
    # The largest becomes 0, so a quotient that overflows is -inf: a token that is never drawn.
    logits = (logits - logits.max(-1, keepdims=True)) / temperature
    if sampling.top_k and sampling.top_k < logits.shape[-1]:
        kept = jax.lax.top_k(logits, sampling.top_k)[1]
        logits = _keep(logits, kept, jnp.ones(kept.shape, bool))
    if sampling.top_p < 1:
        order = jnp.argsort(-logits, axis=-1, stable=True)
        probability = jax.nn.softmax(jnp.take_along_axis(logits, order, -1))
        before = jnp.cumsum(probability, axis=-1) - probability
        logits = _keep(logits, order, before < max(sampling.top_p - ROUNDING, ROUNDING))
    return jax.random.categorical(key, logits)


def _keep(logits: Float[Array, "B Y"], ids: Int[Array, "B N"], kept: Bool[Array, "B N"]) -> Array:
    """Returns `logits` with -inf for all tokens but those of `ids` that are `kept`."""
    rows = jnp.arange(len(logits))[:, None]
    return jnp.where(jnp.zeros(logits.shape, bool).at[rows, ids].set(kept), logits, -jnp.inf)
