"""The stabiliser of exponential gates: m_t = max(log f_t + m_{t-1}, i_t).

The maps m -> max(f + m, i) compose to such maps, so that a scan of them is associative.

Source: Beck et al. 2024, "xLSTM: extended long short-term memory", equation 15.
"""

import jax
import jax.numpy as jnp

from seqarch.types import Array, Bool, Float

CLOSED = -1e30  # the logarithm of a gate that is closed


def stabiliser(
    log_f: Float[Array, "B T H"],
    i: Float[Array, "B T H"],
    m0: Float[Array, "B H"],
    starts: Bool[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T H"], Float[Array, "B T H"]]:
    """Returns all m, and the log-decays log f_t + m_{t-1} - m_t of what they stabilise.

    Args:
      log_f: logarithms of the forget gates.
      i: logarithms of the input gates.
      m0: m before the first token; an empty state has 0.
      starts: whether the state is empty before a token.
    """
    f, most = log_f, i
    if starts is not None:
        f = jnp.where(starts[..., None], CLOSED, log_f)
        most = jnp.where(starts[..., None], jnp.maximum(log_f, i), i)

    def compose(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] + then[0], jnp.maximum(then[0] + first[1], then[1])

    f, most = jax.lax.associative_scan(compose, (f, most), axis=1)
    m = jnp.maximum(f + m0[:, None], most)
    before = jnp.concatenate([m0[:, None], m[:, :-1]], axis=1)
    if starts is not None:
        before = jnp.where(starts[..., None], 0.0, before)
    return m, log_f + before - m
