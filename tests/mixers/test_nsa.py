"""Native sparse attention against a loop in float64 over the tokens of each branch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from seqarch.errors import UserError
from seqarch.flops import count_flops
from seqarch.mixers.attention import Attention
from seqarch.mixers.nsa import NSA
from seqarch.ops.nsa import FORMS
from seqarch.ops.visibility import Places
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
    sigmoid,
    whole,
)

DIM, H, K = 8, 2, 4
OPTIONS = {
    "chosen": dict(size=2, chosen=4, window=1),
    "grouped": dict(size=2, chosen=4, window=3, kv_heads=1),
    "own_block": dict(size=4, chosen=1, window=2, rope=None),
    "all_blocks": dict(size=3, chosen=16, window=64),
}
FORM = dict(chosen="gathered", grouped="blockwise", own_block="masked", all_blocks="gathered")


def choices(W, x, size, count, groups):
    """The blocks [T][G] that tokens of a document choose."""
    bits = (24 - int(np.ceil(np.log2(DIM)))) // 2
    Wq = whole(W["q.kernel"], bits, None)[0].reshape(DIM, groups, -1, K).sum(2)
    q = exact(x, Wq.reshape(DIM, -1)).reshape(len(x), groups, K)
    weigh = W["weigh_k"].astype(np.float32)[np.arange(len(x)) % size]
    keys = weigh * exact(x, W["k.kernel"]).astype(np.float32)
    keys = np.rint(keys.astype(float) * 2**16).reshape(len(x), groups, K)
    bits, chosen = (24 - int(np.ceil(np.log2(K)))) // 2, []
    for t in range(len(x)):
        own, each = t // size, []
        for g in range(groups):
            scores = []
            for b in range(own):
                key, of_key = whole(keys[b * size : (b + 1) * size, g].sum(0), bits, -1)
                score = (whole(q[t, g], bits, -1)[0] @ key) * of_key.item()
                scores.append(np.inf if b in (0, own - 1) else score)
            best = np.argsort(-np.array(scores), kind="stable")[: count - 1]
            each.append([own, *best])
        chosen.append(each)
    return chosen


def attend(q, k, v):
    if not len(k):
        return np.zeros(K)
    scores = np.array(k) @ q / np.sqrt(K)
    weights = np.exp(scores - scores.max())
    return weights @ np.array(v) / weights.sum()


def document(W, x, chosen, size, window, groups, base):
    q, k, v = ((x @ W[f"{name}.kernel"]).reshape(len(x), -1, K) for name in "qkv")
    turn = rotated if base else lambda x, t: x
    weigh = {name: W[f"weigh_{name}"].reshape(size, groups, K) for name in "kv"}
    outputs = []
    for t, token in enumerate(x):
        gates = sigmoid(token @ W["gate.kernel"]).reshape(3, H)
        blocks = [slice(b * size, (b + 1) * size) for b in range((t + 1) // size)]
        y = []
        for h in range(H):
            g = h * groups // H
            query, keys = turn(q[t, h], t), np.array([turn(k[s, g], s) for s in range(t + 1)])
            ck = [(weigh["k"][:, g] * k[b, g]).sum(0) for b in blocks]
            cv = [(weigh["v"][:, g] * v[b, g]).sum(0) for b in blocks]
            seen = [s for s in range(t + 1) if s // size in chosen[t][g]]
            last = range(max(0, t - window + 1), t + 1)
            branches = [attend(q[t, h], ck, cv)]
            branches += [attend(query, keys[s], v[s, g]) for s in (seen, list(last))]
            y.append(gates[:, h] @ np.array(branches))
        outputs.append(np.concatenate(y) @ W["out.kernel"])
    return np.array(outputs)


def documents(starts):
    begins = starts | (np.arange(T) == 0)
    for b in range(B):
        edges = [*np.flatnonzero(begins[b]), T]
        yield from ((b, slice(first, end)) for first, end in zip(edges, edges[1:]))


def oracles(mixer, W, x, options, starts):
    """A function of x and W, with the choices held."""
    size, groups = options["size"], options.get("kv_heads", H)
    held = {
        (b, s.start): choices(W, x[b, s], size, options["chosen"], groups)
        for b, s in documents(starts)
    }
    how = size, options["window"], groups, options.get("rope", True)

    def expected(x, W):
        y = np.zeros_like(x)
        for b, s in documents(starts):
            y[b, s] = document(W, x[b, s], held[b, s.start], *how)
        return y

    return expected


def moved(options, **how):
    """A mixer whose weights within blocks differ, its parameters' names and values."""
    mixer = NSA(DIM, heads=H, block=4, **how, **options, rngs=nnx.Rngs(0))
    names, leaves, structure = named_parameters(mixer)
    leaves = [x + 0.3 * normal(*x.shape) for x in leaves]
    mixer = structure.unflatten([jnp.asarray(x, jnp.float32) for x in leaves])
    return mixer, names, leaves, structure


@pytest.mark.parametrize("name", slow_but({"chosen"}, OPTIONS))
def test_nsa(name):
    """The choices are held while the oracle is differentiated, as they are in the gradient."""
    mixer, names, leaves, structure = moved(OPTIONS[name], method=FORM[name])
    x, named = normal(B, T, DIM), lambda leaves: dict(zip(names, leaves))
    expected = oracles(mixer, named(leaves), x, OPTIONS[name], STARTS)
    function = lambda x, *leaves: structure.unflatten(leaves)(x, jnp.asarray(STARTS))
    assert_form(function, lambda x, *leaves: expected(x, named(leaves)), [x, *leaves])


@pytest.mark.parametrize("method", ["gathered", pytest.param("blockwise", marks=pytest.mark.slow)])
def test_forms_attend_to_the_same_blocks(method):
    """A row has two documents; a query chooses its own block and up to two earlier ones."""
    segment = np.array([[0] * 7 + [1] * 12, [0] * T])
    position = np.where(segment, np.arange(T) - 7, np.arange(T))
    chosen = np.full((B, T, 4), -1)
    for b, t in np.ndindex(B, T):
        own = position[b, t] // 3
        chosen[b, t, : min(own, 2) + 1] = own, *RNG.permutation(own)[:2]
    at = Places(*map(jnp.asarray, (position, segment)), chosen=jnp.asarray(chosen))
    attend = lambda form, *qkv: tuple(form(*qkv, at, size=3, block=4))
    qkv = [jnp.asarray(normal(B, T, *each), jnp.float32) for each in ((2, K), (K,), (K,))]
    cotangents = normal(B, T, 2, K), normal(B, T, 2)
    found, expected = (
        outputs_and_gradients(partial(attend, FORMS[each]), qkv, cotangents)
        for each in (method, "masked")
    )
    for a, b in zip(found, expected, strict=True):
        assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_nsa_from_a_state():
    """A prompt in two parts, of which the second begins a document in one row, then steps.

    The law says that states continue calls, of other options too.
    """
    options = OPTIONS["own_block"]
    mixer, names, leaves, _ = moved(options)
    x, starts = normal(B, T, DIM), np.zeros((B, T), bool)
    starts[1, 9] = True
    found = prefilled_and_stepped(mixer, x, 7, starts)
    W = dict(zip(names, leaves))
    expected = oracles(mixer, W, x, options, starts)(x, W)
    assert_allclose(found, expected, atol=1e-5)


def test_a_step_chooses_the_blocks_of_a_prefill():
    """Also where blocks are alike but for the last bits of their keys."""
    mixer = NSA(64, heads=4, kv_heads=2, size=2, chosen=5, window=4, rngs=nnx.Rngs(0))
    x = jnp.asarray(normal(2, 2, 64).repeat(20, 1) + 1e-6 * normal(2, 40, 64), jnp.float32)
    at = lambda *at: jnp.broadcast_to(jnp.asarray(at, jnp.int32)[None], (2, len(at)))

    @jax.jit
    def prefill(mixer, x):
        places = Places(at(*range(40)), at(*[0] * 40))
        return mixer._project(x, places, mixer.init_state(2, 40)).more.blocks

    @jax.jit
    def steps(mixer, x):
        def step(state, x):
            place = Places(state.length[:, None], at(0))
            blocks = mixer._project(x[:, None], place, state).more.blocks
            return mixer.step(x, state)[1], blocks[:, 0]

        return jax.lax.scan(step, mixer.init_state(2, 40), x.swapaxes(0, 1))[1].swapaxes(0, 1)

    assert_array_equal(prefill(mixer, x), steps(mixer, x))


def test_a_step_reads_a_part_of_the_cache():
    def products(make):
        mixer = make(DIM, heads=H, rngs=nnx.Rngs(0))
        state = jax.eval_shape(lambda: mixer.init_state(1, 4096))
        x = jax.ShapeDtypeStruct((1, DIM), jnp.float32)
        return count_flops(lambda x, state: mixer.step(x, state), x, state).matmul

    nsa = partial(NSA, size=32, chosen=8, window=64)
    assert products(nsa) < products(Attention) / 3


@pytest.mark.slow
def test_the_memory_of_the_gathered_form_is_proportional_to_the_tokens():
    def temporaries(method, tokens):
        options = dict(size=4, chosen=4, window=4, block=32, method=method)
        mixer = NSA(DIM, heads=H, **options, rngs=nnx.Rngs(0))
        x = jax.ShapeDtypeStruct((1, tokens, DIM), jnp.float32)
        compiled = jax.jit(jax.grad(lambda x: mixer(x).sum())).lower(x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    gathered = temporaries("gathered", 1024)
    assert gathered < 2.2 * temporaries("gathered", 512)
    assert gathered < temporaries("masked", 1024) / 2


@pytest.mark.parametrize(
    "options, says",
    [
        (dict(heads=3), "nsa: dim 8, heads 3"),
        (dict(kv_heads=3), "kv_heads 3"),
        (dict(size=0), "size is 0"),
        (dict(chosen=0), "chosen is 0"),
        (dict(window=-1), "window is -1"),
    ],
)
def test_bad_options_are_one_line(options, says):
    with pytest.raises(UserError, match=says) as error:
        NSA(DIM, **options, rngs=nnx.Rngs(0))
    assert "\n" not in str(error.value)
