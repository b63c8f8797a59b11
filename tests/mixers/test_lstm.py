"""The LSTM is its equations, and its forget gates start open."""

from functools import partial

import numpy as np
from flax import nnx

from seqarch.mixers.lstm import LSTM
from tests.oracle import assert_mixer, sigmoid


def step(p, x, state):
    h, c = state
    u = x @ p["inp.kernel"] + p["inp.bias"]
    i, f, z, o = np.split(u + h @ p["recurrent"], 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(z)
    h = sigmoid(o) * np.tanh(c)
    return h @ p["out.kernel"], (h, c)


def test_prefill_is_the_equations():
    assert_mixer(partial(LSTM, hidden=5), step)


def test_the_bias_of_forget_gates_alone_starts_at_one():
    bias = LSTM(8, hidden=2, rngs=nnx.Rngs(0)).inp.bias[...]
    assert bias.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
