"""Draws keep the tokens that a sampling says, and no others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch.errors import UserError
from seqarch.sampling import Sampling, sample

GREEDY = Sampling(temperature=0)


@pytest.mark.slow
def test_sampling_keeps_what_it_says():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    keys = jax.random.split(jax.random.key(0), 200)

    def draw(sampling):
        tokens = jax.jit(jax.vmap(lambda key: sample(logits, sampling, key)[0]))(keys)
        return set(tokens.tolist())

    assert draw(Sampling()) == {0, 1, 2, 3}
    assert draw(Sampling(top_k=2)) == {0, 1}
    assert draw(Sampling(top_p=0.6)) == {0, 1}
    assert draw(Sampling(top_p=0.4)) == draw(Sampling(top_k=1)) == draw(GREEDY) == {0}


def _kept(probabilities, sampling):
    """The ids that `sample` can draw, read from the logits that it leaves finite."""
    seen = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            jax.random, "categorical", lambda key, logits: seen.setdefault("logits", logits)
        )
        sample(jnp.log(jnp.asarray(probabilities, jnp.float32))[None], sampling, jax.random.key(0))
    return np.flatnonzero(np.isfinite(seen["logits"][0])).tolist()


def test_the_fewest_tokens_are_kept_and_the_lower_ids_of_ties():
    assert _kept([0.5, 0.3, 0.1, 0.1], Sampling(top_p=0.8)) == [0, 1]
    assert _kept([0.1, 0.1, 0.3, 0.5], Sampling(top_p=0.85)) == [0, 2, 3]
    assert _kept([0.25] * 4, Sampling(top_k=2)) == _kept([0.25] * 4, Sampling(top_p=0.5)) == [0, 1]
    assert _kept([0.1, 0.2, 0.3, 0.4], Sampling(top_p=1e-9)) == [3]


def test_top_p_keeps_what_float64_keeps():
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts = rng.integers(1, 20, 12)
        held = rng.integers(1, counts.sum())
        order = np.argsort(-counts, kind="stable")
        fewest = np.searchsorted(np.cumsum(counts[order]), held) + 1
        kept = _kept(counts / counts.sum(), Sampling(top_p=held / counts.sum()))
        assert kept == sorted(order[:fewest].tolist())


@pytest.mark.parametrize("temperature", [1e-38, 1e-45, 1e-300])
def test_the_smallest_temperatures_are_greedy(temperature):
    logits = jnp.array([[-3.0, 40.0, 39.9, 0.0]])
    assert int(sample(logits, Sampling(temperature), jax.random.key(0))[0]) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_an_impossible_temperature_is_refused(value):
    with pytest.raises(UserError, match="finite temperature"):
        Sampling(temperature=value).check()
