"""S5 is its equations, and starts as the paper says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqarch.errors import UserError
from seqarch.mixers.s5 import S5, hippo
from seqarch.ops.scan import FORMS
from tests.grids import slow_but
from tests.oracle import assert_mixer, sigmoid


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def step(p, x, state):
    re, im = p["Lambda"]
    Lambda = np.minimum(re, -1e-4) + 1j * im
    a = np.exp(np.exp(p["log_delta"]) * Lambda)
    B = p["B"].reshape(len(p["B"]), 2, -1)
    h = state.h[:, 0] + 1j * state.h[:, 1]
    h = a * h + (a - 1) / Lambda * (x @ (B[:, 0] + 1j * B[:, 1]))
    C = p["C"].reshape(2, -1, p["C"].shape[-1])
    z = gelu(2 * (h @ (C[0] - 1j * C[1])).real + p["D"] * x)
    return z * sigmoid(z @ p["gate.kernel"] + p["gate.bias"]), (np.stack([h.real, h.imag], 1),)


@pytest.mark.parametrize("method", slow_but({"chunked"}, FORMS))
def test_prefill_is_the_equations(method):
    assert_mixer(partial(S5, state_dim=6, blocks=3, method=method, chunk=4), step)


@pytest.mark.parametrize("decay", [-2.0, -200.0], ids=["lasting", "forgetting"])
def test_extreme_decays_lose_nothing(decay):
    def make(dim, rngs):
        mixer = S5(dim, rngs=rngs)
        mixer.Lambda[...] = mixer.Lambda[...].at[0].set(decay)
        mixer.log_delta[...] += -8.0 if decay > -10 else 0.0
        return mixer

    assert_mixer(make, step)


def test_a_real_part_above_the_bound_counts_as_the_bound():
    @jax.jit
    def largest():
        mixer = S5(8, rngs=nnx.Rngs(0))
        mixer.Lambda[...] = mixer.Lambda[...].at[0].set(3.0)
        a, _ = mixer._affine(jnp.ones((1, 1, 8)))
        return jnp.abs(a).max()

    assert largest() <= 1


@pytest.mark.parametrize("size", [2, 16])
def test_lambda_starts_as_the_eigenvalues_of_the_normal_part_of_hippo(size):
    p = np.sqrt(1 + 2 * np.arange(size))
    A = -(np.tril(np.outer(p, p)) - np.diag(np.arange(size)))
    normal_part = A + np.outer(p, p) / 2
    Lambda, V = hippo(size)
    np.testing.assert_allclose(normal_part @ V, V * Lambda, atol=1e-4 * np.abs(Lambda).max())
    np.testing.assert_allclose(V.conj().T @ V, np.eye(size // 2), atol=1e-5)
    both = np.concatenate([Lambda, Lambda.conj()])
    expected = np.linalg.eigvals(normal_part)
    order = lambda x: x[np.argsort(x.imag)]
    np.testing.assert_allclose(order(both), order(expected), atol=1e-4 * np.abs(Lambda).max())


def test_b_and_c_start_as_real_matrices_in_the_eigenbasis():
    """So B keeps half of the squared length of a real column of 2 N entries, which is 1."""
    mixer = jax.jit(lambda: S5(256, state_dim=32, blocks=2, rngs=nnx.Rngs(0)))()
    B, C = (np.asarray(each[...]) for each in (mixer.B, mixer.C))
    np.testing.assert_allclose((B**2).sum(1).mean(), 0.5, rtol=0.1)
    np.testing.assert_allclose((C**2).sum(0).mean(), 1.0, rtol=0.1)
    delta = np.exp(mixer.log_delta[...])
    assert 1e-3 <= delta.min() and delta.max() <= 1e-1 + 1e-6
    Lambda = np.asarray(mixer.Lambda[...])
    np.testing.assert_array_equal(Lambda[:, :16], Lambda[:, 16:])


@pytest.mark.parametrize("options", [dict(state_dim=0), dict(state_dim=6, blocks=4)])
def test_empty_states_and_blocks_that_do_not_divide_are_refused(options):
    with pytest.raises(UserError, match="blocks must divide state_dim"):
        S5(8, **options, rngs=nnx.Rngs(0))
