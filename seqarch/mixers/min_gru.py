"""minGRU: a GRU whose gate and proposal do not depend on the state, so that it trains in parallel.

    z_t = sigmoid(W_z x_t + b_z)        v_t = g(W_v x_t + b_v)
    h_t = (1 - z_t) h_{t-1} + z_t v_t   y_t = O h_t

v is the proposal, h with a tilde in the paper; g (see seqarch/mixers/minimal.py) keeps it above 0.

Source: Feng et al. 2024, "Were RNNs all we needed?", appendix B, the form in log space.
"""

import jax
import jax.numpy as jnp

from seqarch.mixers.minimal import MinimalMixer, g


class MinGRU(MinimalMixer):
    """minGRU. Gates and states stay float32 whatever `dtype` is.

    expand: channels of the state per channel of the model, E / D
    method: a form of ops.linear_scan; "auto": the best one on the device
    chunk: tokens per chunk of the forms in chunks
    state_dtype: dtype of the state between calls
    """

    gates = 2

    def _affine(self, u):
        z, v = jnp.split(u, 2, axis=-1)
        return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * g(v)  # sigmoid(-z) is 1 - sigmoid(z)
