"""Mixers with a matrix for each head are their equations, written out token by token."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqarch.errors import UserError
from seqarch.mixers.deltanet import DeltaNet
from seqarch.mixers.deltaproduct import DeltaProduct
from seqarch.mixers.gated_deltanet import GatedDeltaNet
from seqarch.mixers.gla import GLA
from seqarch.mixers.kda import KDA
from seqarch.mixers.mamba2 import Mamba2
from seqarch.mixers.matrix_state import MatrixState
from seqarch.mixers.retnet import RetNet
from seqarch.mixers.rwkv7 import RWKV7
from tests.grids import slow_but
from tests.oracle import assert_mixer, sigmoid, softplus

H = 2


def silu(x):
    return x * sigmoid(x)


def heads(x, count=H):
    return x.reshape(*x.shape[:-1], count, -1)


def unit(x):
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + 1e-6)


def normed(p, o, eps=1e-5):
    y = o / np.sqrt((o * o).mean(-1, keepdims=True) + eps) * p["norm.scale"]
    return y.reshape(len(y), -1)


def convolved(p, x, conv):
    """The outputs of the convolution after the activation, and its next state."""
    recent = np.concatenate([conv, (x @ p["inp.kernel"])[:, None]], 1)
    u = np.einsum("bwe,we->be", recent, p["conv.weights"]) + p.get("conv.bias", 0)
    return silu(u), recent[:, 1:]


def qkv(u, K):
    return (heads(each) for each in np.split(u, [H * K, 2 * H * K], -1))


def erased(S, b, k):
    return S - np.einsum("bh,bhk,bhj,bhjv->bhkv", b, k, k, S)


def written(S, b, k, v):
    return S + np.einsum("bh,bhk,bhv->bhkv", b, k, v)


def read(S, q):
    return np.einsum("bhk,bhkv->bhv", q, S) / np.sqrt(q.shape[-1])


def log_decay(p, d, repeats=1):
    return -np.repeat(np.exp(p["decay.log_A"]), repeats) * softplus(d + p["decay.bias"])


def gla(p, x, state):
    q, k, v = qkv(x @ p["inp.kernel"], 2)
    gate = x @ p["low.kernel"] @ p["decay.kernel"] + p["decay.bias"]
    S = heads(sigmoid(gate) ** (1 / 16))[..., None] * state.S
    S = written(S, np.ones(q.shape[:2]), k, v)
    y = normed(p, read(S, q)) * silu(x @ p["gate.kernel"])
    return y @ p["out.kernel"], MatrixState(state.conv, S)


def retnet(p, x, state):
    """The rotated pairs of key channels are complex numbers, and gamma R a complex decay."""
    q, k, v = qkv(x @ p["inp.kernel"], 4)
    half = q.shape[-1] // 2
    gamma = (1 - 2.0 ** (-5 - np.arange(H)))[:, None, None]
    turn = np.exp(1j * 10000.0 ** (-np.arange(half) / half))[None, :, None]
    S = (state.S[:, :, :half] + 1j * state.S[:, :, half:]) * (gamma * turn)
    S = written(np.concatenate([S.real, S.imag], 2), np.ones(q.shape[:2]), k, v)
    y = normed(p, read(S, q)) * silu(x @ p["gate.kernel"])
    return y @ p["out.kernel"], MatrixState(state.conv, S)


def deltanet(p, x, state, strength=1):
    u, conv = convolved(p, x, state.conv)
    q, k, v = qkv(u, 4)
    b, k = strength * sigmoid(x @ p["beta.kernel"]), unit(k)
    S = written(erased(state.S, b, k), b, k, v)
    return normed(p, read(S, unit(q))) @ p["out.kernel"], MatrixState(conv, S)


def gated_deltanet(p, x, state):
    u, conv = convolved(p, x, state.conv)
    q, k, v = qkv(u, 3)
    b, k = sigmoid(x @ p["beta.kernel"]), unit(k)
    a = np.exp(log_decay(p, x @ p["delta.kernel"]))
    S = written(erased(a[..., None, None] * state.S, b, k), b, k, v)
    y = normed(p, read(S, unit(q))) * silu(x @ p["gate.kernel"])
    return y @ p["out.kernel"], MatrixState(conv, S)


def kda(p, x, state, strength=1):
    u, conv = convolved(p, x, state.conv)
    q, k, v = qkv(u, 4)
    b, k = strength * sigmoid(x @ p["beta.kernel"]), unit(k)
    a = heads(np.exp(log_decay(p, x @ p["low.kernel"] @ p["delta.kernel"], 4)))
    S = written(erased(a[..., None] * state.S, b, k), b, k, v)
    y = normed(p, read(S, unit(q))) * sigmoid(x @ p["gate_low.kernel"] @ p["gate.kernel"])
    return y @ p["out.kernel"], MatrixState(conv, S)


def deltaproduct(p, x, state, decays=False):
    u, conv = convolved(p, x, state.conv)
    q, k1, k2, v1, v2 = (heads(each) for each in np.split(u, 5, -1))
    b1, b2 = np.split(2 * sigmoid(x @ p["beta.kernel"]), 2, -1)
    a = np.exp(log_decay(p, x @ p["delta.kernel"])) if decays else np.ones((len(x), H))
    S = written(erased(a[..., None, None] * state.S, b1, unit(k1)), b1, unit(k1), v1)
    S = written(erased(S, b2, unit(k2)), b2, unit(k2), v2)
    return normed(p, read(S, unit(q))) @ p["out.kernel"], MatrixState(conv, S)


def mamba2(p, x, state, negative=False):
    u, conv = convolved(p, x, state.conv)
    values, B, C = np.split(u, [16, 19], -1)
    values, d = heads(values), x @ p["delta.kernel"]
    a = np.exp(log_decay(p, d))
    a = 2 * a - 1 if negative else a
    delta = softplus(d + p["decay.bias"])
    S = a[..., None, None] * state.S + np.einsum("bn,bh,bhv->bhnv", B, delta, values)
    o = np.einsum("bn,bhnv->bhv", C, S) + p["D"][:, None] * values
    y = o.reshape(len(o), -1) * silu(x @ p["gate.kernel"])
    return normed(p, y) @ p["out.kernel"], MatrixState(conv, S)


def rwkv7(p, x, state):
    before = state.conv[:, 0]
    mixed = {c: x + p[f"mu.{c}"] * (before - x) for c in "rwkvag"}
    low = {c: mixed[c] @ p[f"{c}.down.kernel"] for c in "wag"}
    r, k, v = (mixed[c] @ p[f"{c}.kernel"] for c in "rkv")
    w = np.exp(-np.exp(-0.5) * sigmoid(np.tanh(low["w"]) @ p["w.up"] + p["w.bias"]))
    a = sigmoid(low["a"] @ p["a.up"] + p["a.bias"])
    kappa = unit(heads(k * p["xi"]))
    k = k * (1 + (a - 1) * p["alpha"])
    S = heads(w)[..., None] * state.S
    S = S - np.einsum("bhk,bhj,bhjv->bhkv", heads(a) * kappa, kappa, state.S)
    S = written(S, np.ones((len(x), H)), heads(k), heads(v))
    o = np.einsum("bhk,bhkv->bhv", heads(r), S)
    centred = o - o.mean(-1, keepdims=True)
    o = centred / np.sqrt(centred.var(-1, keepdims=True) + 64e-5)
    own = heads(r * k * p["rho"]).sum(-1, keepdims=True) * heads(v)
    o = o.reshape(len(o), -1) * p["norm.scale"] + p["norm.bias"]
    y = o + own.reshape(len(o), -1)
    y = y * (sigmoid(low["g"]) @ p["g.up"])
    return y @ p["out.kernel"], MatrixState(x[:, None], S)


CASES = {
    "rwkv7": (partial(RWKV7, heads=H), rwkv7),
    "gla": (partial(GLA, heads=H), gla),
    "retnet": (partial(RetNet, heads=H), retnet),
    "deltanet": (partial(DeltaNet, heads=H), deltanet),
    "deltanet_negative": (
        partial(DeltaNet, heads=H, negative_eigenvalues=True),
        partial(deltanet, strength=2),
    ),
    "gated_deltanet": (partial(GatedDeltaNet, heads=H), gated_deltanet),
    "kda": (partial(KDA, heads=H), kda),
    "deltaproduct": (partial(DeltaProduct, heads=H), deltaproduct),
    "deltaproduct_decay": (
        partial(DeltaProduct, heads=H, decay="data"),
        partial(deltaproduct, decays=True),
    ),
    "mamba2": (partial(Mamba2, state_dim=3, head_dim=8), mamba2),
    "mamba2_negative": (
        partial(Mamba2, state_dim=3, head_dim=8, negative_eigenvalues=True),
        partial(mamba2, negative=True),
    ),
}


@pytest.mark.parametrize("mixer, smallest", [(GatedDeltaNet, 0), (Mamba2, 1)])
def test_decays_start_as_in_the_authors_code(mixer, smallest):
    heads = dict(heads=64) if mixer is GatedDeltaNet else dict(head_dim=2)
    made = jax.jit(lambda: mixer(64, **heads, rngs=nnx.Rngs(0)))()
    A = np.exp(made.decay.log_A[...])
    assert len(A) == 64 and smallest < A.min() < smallest + 1 and 15 < A.max() < 16
    assert (made.conv.bias is None) == (mixer is GatedDeltaNet)


@pytest.mark.parametrize("name", slow_but({"mamba2"}, CASES))
def test_prefill_is_the_equations(name):
    make, step = CASES[name]
    assert_mixer(partial(make, chunk=4), step, tolerance=3e-5)


@pytest.mark.parametrize(
    "make, message",
    [
        (partial(GLA, heads=3), "gla: its width 8 does not divide into 3 heads"),
        (partial(RetNet, heads=8), "give an even number of channels"),
        (partial(DeltaNet, conv_width=257), "conv_width is 257; give a number from 1 to 256"),
        (partial(DeltaProduct, steps=0), "steps is 0"),
        (partial(DeltaProduct, decay="no"), "decay of deltaproduct 'no'"),
        (partial(Mamba2, head_dim=5), "head_dim must divide the inner channels"),
    ],
)
def test_impossible_options_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make(8, rngs=nnx.Rngs(0))


def test_decays_start_as_in_the_papers():
    @jax.jit
    def starts():
        retnet = RetNet(8, heads=H, rngs=nnx.Rngs(0))
        log_gamma = retnet._tokens(jnp.ones((1, 8)), jnp.ones((1, 32)))[3]
        return log_gamma, *Mamba2(64, head_dim=2, rngs=nnx.Rngs(0)).decay(jnp.zeros((1, 64)))

    log_gamma, delta, g = map(np.asarray, starts())
    np.testing.assert_allclose(np.exp(log_gamma[0]), [1 - 1 / 32, 1 - 1 / 64], rtol=1e-6)
    assert 1e-3 <= delta.min() < 3e-3 and 3e-2 < delta.max() <= 1e-1
    assert 1 <= (-g / delta).min() < 2 and 14 < (-g / delta).max() <= 16.001
