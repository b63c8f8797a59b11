"""LSH attention against a loop in float64 over the sets that its definition names."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from seqarch.errors import UserError
from seqarch.mixers.lsh import LSH
from seqarch.ops.exact import exact_product
from seqarch.ops.lsh import addresses, hashes, lsh, rotations
from seqarch.ops.visibility import Hashed, Places, Rule, visible
from tests.grids import slow_but
from tests.mixers.test_attention import rotated
from tests.ops.test_ops import STARTS, B, T
from tests.oracle import (
    RNG,
    assert_form,
    exact,
    named_parameters,
    normal,
    outputs_and_gradients,
    prefilled_and_stepped,
)

DIM, H, K = 8, 2, 4
OPTIONS = {
    "one_round": dict(buckets=2, rounds=1, window=3),
    "rounds": dict(buckets=4, rounds=3, window=2),
    "often_alone": dict(buckets=32, rounds=1, window=64),
    "no_positions": dict(buckets=2, rounds=2, window=64, rope=None),
}
FORM = dict(one_round="masked", rounds="sorted", often_alone="sorted", no_positions="sorted")


def buckets_of(x, W, buckets, rounds):
    """The hashes [..., H, rounds] of inputs."""
    y = exact(x, W).reshape(*x.shape[:-1], H, K)
    z = exact(y, rotations(K, rounds, buckets)).reshape(*y.shape[:-1], rounds, -1)
    return np.concatenate([z, -z], -1).argmax(-1)


def found_by(h, t, window):
    """The tokens that token t of a document with the hashes h [T, rounds] finds."""
    sets = []
    for hashed in h.T:
        sets.append([s for s in range(t) if hashed[s] == hashed[t]][-window:])
    return sorted({s for each in sets for s in each}) or [t]


def document(W, x, h, window, base):
    q, v = ((x @ W[f"{name}.kernel"]).reshape(len(x), H, K) for name in "qv")
    k = q / np.sqrt((q**2).mean(-1, keepdims=True) + 1e-6) / np.sqrt(K)
    turn = (lambda x, t: rotated(x, t)) if base else (lambda x, t: x)
    outputs = []
    for t in range(len(x)):
        y = []
        for i in range(H):
            seen = found_by(h[:, i], t, window)
            scores = np.array([turn(k[s, i], s) @ turn(q[t, i], t) for s in seen])
            weights = np.exp(scores - scores.max())
            y.append(weights @ v[seen, i] / weights.sum())
        outputs.append(np.concatenate(y) @ W["out.kernel"])
    return np.array(outputs)


def oracle(W, x, h, window, base, starts=STARTS):
    begins, y = starts | (np.arange(T) == 0), np.zeros_like(x)
    for b in range(B):
        edges = [*np.flatnonzero(begins[b]), T]
        for first, end in zip(edges, edges[1:]):
            y[b, first:end] = document(W, x[b, first:end], h[b, first:end], window, base)
    return y


@pytest.mark.parametrize("name", slow_but({"rounds"}, OPTIONS))
def test_lsh(name):
    """The choices are held while the oracle is differentiated, as they are in the gradient."""
    options = OPTIONS[name]
    mixer = LSH(DIM, heads=H, block=4, method=FORM[name], **options, rngs=nnx.Rngs(0))
    names, kernels, structure = named_parameters(mixer)
    x, W = normal(B, T, DIM), dict(zip(names, kernels))
    h = buckets_of(x, W["q.kernel"], options["buckets"], options["rounds"])
    base = options.get("rope", True)
    function = lambda x, *kernels: structure.unflatten(kernels)(x, jnp.asarray(STARTS))

    def expected(x, *kernels):
        return oracle(dict(zip(names, kernels)), x, h, options["window"], base)

    assert_form(function, expected, [x, *kernels])


@pytest.mark.slow
def test_forms_find_the_same_tokens():
    """A row has two documents, the other one's last tokens are absent."""
    segment = np.array([[0] * 7 + [1] * 12, [0] * T])
    position = np.where(segment, np.arange(T) - 7, np.arange(T))
    position[1, 15:] = -1
    at = Places(jnp.asarray(position), jnp.asarray(segment))
    bucket, count = RNG.integers(4, size=(B, T, H, 3)), np.zeros((B, H, 3, 4), int)
    address = addresses(jnp.asarray(bucket), at, jnp.asarray(count))
    qkv = [jnp.asarray(normal(B, T, H, K), jnp.float32) for _ in range(3)]
    cotangents = np.where(position >= 0, 1, 0)[..., None] * normal(B, T, H)
    cotangents = cotangents[..., None] * normal(K), cotangents

    def attend(method, *qkv):
        return tuple(lsh(*qkv, address, at=at, window=2, method=method, block=4))

    results = [
        outputs_and_gradients(partial(attend, method), qkv, cotangents)
        for method in ("sorted", "masked")
    ]
    for found, expected in zip(*results, strict=True):
        assert_allclose(found[0], expected[0], atol=1e-5)
        assert_allclose(found[1, :15], expected[1, :15], atol=1e-5)


@pytest.mark.slow
def test_lsh_from_a_state():
    """A prompt in two parts, of which the second begins a document in one row, then a step.

    The law says that states continue calls, of other options too.
    """
    options, cut = OPTIONS["often_alone"], 9
    mixer = LSH(DIM, heads=H, block=4, **options, rngs=nnx.Rngs(0))
    W = dict(zip(*named_parameters(mixer)[:2]))
    x, starts = normal(B, T, DIM), np.zeros((B, T), bool)
    starts[1, 12] = True
    h = buckets_of(x, W["q.kernel"], options["buckets"], options["rounds"])
    found = prefilled_and_stepped(mixer, x, cut, starts)
    expected = oracle(W, x, h, options["window"], options.get("rope", True), starts)
    assert_allclose(found, expected, atol=1e-5)


def test_hashes_are_the_same_to_the_bit_in_every_batch():
    x, W = (jnp.asarray(normal(*shape), jnp.float32) for shape in ((3, 50, 96), (96, 96)))
    hashed = jax.jit(lambda x: hashes(x, W, 4, 4, 16))
    whole = hashed(x)
    for t in range(0, 50, 7):
        assert_array_equal(hashed(x[1:2, t : t + 1])[0, 0], whole[1, t])
    assert len(np.unique(whole)) == 16


@pytest.mark.parametrize("size", [1, 5, 64, 3000])
def test_products_of_rounded_factors_are_those_of_integers(size):
    x, W = (normal(*shape).astype(np.float32) for shape in ((4, size), (size, 3)))
    found = exact_product(x, W)
    assert_array_equal(found, exact(x, W))
    assert_allclose(found, x @ W, atol=0.1 * np.abs(x @ W).max())


@pytest.mark.slow
def test_recall_of_the_best_keys_rises_with_the_rounds():
    """The share of each query's four best keys that are found, against that of all keys."""
    T, K, buckets, best = 256, 16, 16, 4
    q = normal(1, T, K).astype(np.float32)
    at = Places(np.arange(T)[None], np.zeros((1, T), int))
    scores = q[0] @ (q[0] / np.linalg.norm(q[0], axis=-1, keepdims=True)).T
    scores = np.where(np.tri(T, k=-1, dtype=bool), scores, -np.inf)[best:]
    top = np.argsort(-scores, axis=-1)[:, :best]

    @partial(jax.jit, static_argnums=1)
    def found_keys(q, rounds):
        bucket = hashes(q, jnp.eye(K), 1, rounds, buckets)
        address = addresses(bucket, at, np.zeros((1, 1, rounds, buckets), int))[:, :, 0]
        there = at._replace(address=address)
        return visible(there, there, Rule(hashed=Hashed(T)))

    recalls = []
    for rounds in (1, 2, 4, 8):
        seen = np.array(found_keys(q, rounds)[0, best:])
        found = np.take_along_axis(seen, top, axis=1).mean()
        recalls.append(found)
        assert found > 2 * seen.sum() / np.isfinite(scores).sum()
    assert all(b > a + 0.05 for a, b in zip(recalls, recalls[1:])), recalls


@pytest.mark.slow
def test_the_memory_of_the_sorted_form_is_proportional_to_the_tokens():
    def temporaries(method, tokens):
        mixer = LSH(DIM, heads=H, rounds=2, method=method, block=32, window=8, rngs=nnx.Rngs(0))
        x = jax.ShapeDtypeStruct((1, tokens, DIM), jnp.float32)
        compiled = jax.jit(jax.grad(lambda x: mixer(x).sum())).lower(x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    ours = temporaries("sorted", 1024)
    assert ours < 2.2 * temporaries("sorted", 512)
    assert ours < temporaries("masked", 1024) / 2


@pytest.mark.parametrize(
    "options, says",
    [
        (dict(heads=3), "lsh: dim 8, heads 3"),
        (dict(buckets=5), "buckets is 5"),
        (dict(rounds=0), "rounds is 0"),
        (dict(window=0), "window is 0"),
        (dict(rope=-1.0), "rope is -1.0"),
    ],
)
def test_bad_options_are_one_line(options, says):
    with pytest.raises(UserError, match=says) as error:
        LSH(DIM, **options, rngs=nnx.Rngs(0))
    assert "\n" not in str(error.value)
