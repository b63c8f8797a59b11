"""minLSTM: an LSTM whose gates and proposal do not depend on the state; it trains in parallel.

    f_t = sigmoid(W_f x_t + b_f)        i_t = sigmoid(W_i x_t + b_i)
    f'_t = f_t / (f_t + i_t)            i'_t = i_t / (f_t + i_t)
    v_t = g(W_v x_t + b_v)              h_t = f'_t h_{t-1} + i'_t v_t       y_t = O h_t

The normalised gates sum to 1, so that the scale of h does not depend on time. v is the proposal, h
with a tilde in the paper; g (see seqarch/mixers/minimal.py) keeps it above 0.

Source: Feng et al. 2024, "Were RNNs all we needed?", appendix B, the form in log space.
"""

import jax
import jax.numpy as jnp

from seqarch.mixers.minimal import MinimalMixer, g


class MinLSTM(MinimalMixer):
    """minLSTM with normalised gates. Gates and states stay float32 whatever `dtype` is.

    expand: channels of the state per channel of the model, E / D
    method: a form of ops.linear_scan; "auto": the best one on the device
    chunk: tokens per chunk of the forms in chunks
    state_dtype: dtype of the state between calls
    """

    gates = 3

    def _affine(self, u):
        f, i, v = jnp.split(u, 3, axis=-1)
        # log(i_t / f_t): a quotient of gates that are both near 0 would lose them.
        log_ratio = jax.nn.softplus(-f) - jax.nn.softplus(-i)
        return jax.nn.sigmoid(-log_ratio), jax.nn.sigmoid(log_ratio) * g(v)
