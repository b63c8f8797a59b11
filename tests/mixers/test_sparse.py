"""Sparse attention against a loop in float64, and the blocks that it reads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from seqarch.errors import UserError
from seqarch.flops import count_flops
from seqarch.mixers.sparse import Sparse
from tests.grids import slow_but
from tests.mixers.test_attention import rotated
from tests.ops.test_ops import STARTS, B, T, assert_form, normal
from tests.oracle import prefilled_and_stepped

DIM, H, K = 8, 2, 4
OPTIONS = {
    "window": dict(window=3, stride=None),
    "globals": dict(window=2, globals=3, stride=None),
    "stride": dict(window=1, stride=4),
    "all": dict(window=3, globals=1, stride=5),
}


def document(mixer, x, window, globals=0, stride=None):
    W = {
        name: np.asarray(getattr(mixer, name).kernel[...], np.float64)
        for name in ("q", "k", "v", "out")
    }
    q, k, v = ((np.array(x) @ W[name]).reshape(len(x), H, K) for name in "qkv")
    outputs = []
    for t in range(len(x)):
        seen = [
            s
            for s in range(t + 1)
            if t - s < window or s < globals or (stride and (t - s) % stride == 0)
        ]
        y = []
        for h in range(H):
            query, keys = rotated(q[t, h], t), np.array([rotated(k[s, h], s) for s in seen])
            scores = keys @ query / np.sqrt(K)
            weights = np.exp(scores - scores.max())
            y.append(weights @ v[seen, h] / weights.sum())
        outputs.append(np.concatenate(y) @ W["out"])
    return outputs


def oracle(mixer, x, options):
    begins, y = STARTS | (np.arange(T) == 0), np.zeros_like(x)
    for b in range(B):
        edges = [*np.flatnonzero(begins[b]), T]
        for first, end in zip(edges, edges[1:]):
            y[b, first:end] = document(mixer, x[b, first:end], **options)
    return y


@pytest.mark.parametrize("name", slow_but({"all"}, OPTIONS))
def test_sparse(name):
    assert_sparse(name, "blockwise")


@pytest.mark.slow
def test_the_materialised_form():
    assert_sparse("all", "materialised")


def assert_sparse(name, method):
    options = OPTIONS[name]
    mixer = Sparse(DIM, heads=H, block=4, method=method, **options, rngs=nnx.Rngs(0))
    function = lambda x: mixer(x, jnp.asarray(STARTS))
    assert_form(function, lambda x: oracle(mixer, x, options), [normal(B, T, DIM)])


@pytest.mark.slow
def test_sparse_from_a_state():
    """The law says that states continue calls, of other options too."""
    options = OPTIONS["globals"]
    mixer = Sparse(DIM, heads=H, block=4, **options, rngs=nnx.Rngs(0))
    x = normal(B, T, DIM)
    found = prefilled_and_stepped(mixer, x, 9)
    assert_allclose(found, [document(mixer, row, **options) for row in x], atol=1e-5)


@pytest.mark.parametrize(
    "options, least", [(OPTIONS["globals"], 10), (dict(window=8, stride=16), 5)]
)
def test_blocks_without_visible_keys_are_skipped(options, least):
    """Products of attention, without those of the projections, are a fraction of full ones."""
    full = dict(window=2**20, stride=None)

    def cost(**options):
        mixer = Sparse(DIM, heads=H, block=8, **options, method="blockwise", rngs=nnx.Rngs(0))
        x = jax.ShapeDtypeStruct((1, 512, DIM), jnp.float32)
        projections = 4 * 2 * 512 * DIM**2
        return count_flops(lambda x: mixer(x), x).matmul - projections

    assert cost(**full) > least * cost(**options)


@pytest.mark.parametrize(
    "options, says",
    [
        (dict(heads=3), "sparse: dim 8, heads 3"),
        (dict(window=0), "window is 0"),
        (dict(globals=-1), "globals is -1"),
        (dict(stride=0), "stride is 0"),
    ],
)
def test_bad_options_are_one_line(options, says):
    with pytest.raises(UserError, match=says) as error:
        Sparse(DIM, **options, rngs=nnx.Rngs(0))
    assert "\n" not in str(error.value)
