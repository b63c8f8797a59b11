"""The train step as a pure function: what it optimises, what it refuses, and that it can be
vmapped.
"""

import argparse
import dataclasses
import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seqarch.config import Config, ModelConfig, OptimConfig
from seqarch.mixers.base import SequenceMixer
from seqarch.tasks.batch import Batch
from seqarch.training import optim
from seqarch.training.state import Hyper, hyper, make_init, make_train_step, token_losses
from tests.conftest import CORE

TINY = ModelConfig(mixer="linear_attention", layers=1, dim=32, mlp=0)
ROWS, LENGTH, STEPS = 8, 32, 60
CONFIG = Config(
    steps=STEPS, batch=ROWS, length=LENGTH, model=TINY, optim=OptimConfig(lr=1e-2, warmup=5)
)


class Leaky(SequenceMixer):
    """Looks one token ahead: what a mixer must not do."""

    def __init__(self, dim, *, dtype=jnp.float32, rngs):
        self.out = nnx.Linear(dim, dim, dtype=dtype, rngs=rngs)

    def __call__(self, x, starts=None):
        return self.out(jnp.roll(x, -1, axis=1))


@functools.cache
def text() -> np.ndarray:
    return np.frombuffer(Path(argparse.__file__).read_bytes(), np.uint8).astype(np.int32)


def cut(tokens: np.ndarray, count: int, seed: int = 0) -> Batch:
    """`count` batches of windows at random places, stacked."""
    offsets = np.random.default_rng(seed).integers(len(tokens) - LENGTH, size=(count, ROWS, 1))
    window = tokens[offsets + np.arange(LENGTH + 1)]
    inputs = window[..., :-1]
    return Batch(
        inputs, window[..., 1:], np.zeros(inputs.shape, bool), np.ones(inputs.shape, np.float32)
    )


@functools.cache
def program(mixer: str):
    """(batches to learn, held-out batches) -> losses of a run from scratch, and held-out loss after
    it; in bits per token.
    """
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(TINY, mixer=mixer))
    step = make_train_step(config)

    def learn(batches, held_out):
        state = make_init(config)(jax.random.key(0))
        state, metrics = jax.lax.scan(
            lambda state, batch: step(state, batch, hyper(config)), state, batches
        )
        losses = jax.lax.map(lambda batch: token_losses(state.model, batch).mean(), held_out)
        return metrics["loss"] / math.log(2), losses.mean() / math.log(2)

    return jax.jit(learn)


@functools.cache
def one_step(config: Config):
    return jax.jit(make_train_step(config))


@functools.cache
def start(config: Config = CONFIG):
    return jax.jit(make_init(config))(jax.random.key(0))


def batch(seed: int = 0) -> Batch:
    return jax.tree.map(lambda x: x[0], cut(text(), 1, seed))


def equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), a, b))


def assert_close(a, b, **tolerance) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", CORE)
def test_learns_text_and_cannot_see_the_future(mixer):
    losses, _ = program(mixer)(cut(text(), STEPS), cut(text(), STEPS))
    assert losses[20:25].mean() < losses[0] - 2
    assert losses[-5:].mean() < losses[20:25].mean()
    below, above = shuffled_bits_beyond_entropy(mixer)
    assert below > -0.05, (
        "predicts independent bytes better than their entropy: it sees its targets"
    )
    assert above < 0.2, "has not learnt the frequencies of bytes, so the test says nothing"


@pytest.mark.slow
def test_a_leak_would_show():
    below, _ = shuffled_bits_beyond_entropy(f"{__name__}:Leaky")
    assert below < -1


def shuffled_bits_beyond_entropy(mixer: str) -> tuple[float, float]:
    """Trains on shuffled text; held-out bits per byte minus the entropy of those bytes, and of the
    training bytes.
    """
    held_out, train = np.split(
        np.random.default_rng(0).permutation(text()), [STEPS * ROWS * LENGTH]
    )
    windows = cut(held_out, STEPS)
    _, found = program(mixer)(cut(train, STEPS), windows)
    return float(found) - entropy(windows.targets), float(found) - entropy(train)


def entropy(values: np.ndarray) -> float:
    shares = np.bincount(values.ravel()) / values.size
    shares = shares[shares > 0]
    return float(-(shares * np.log2(shares)).sum())


def test_schedule_rises_then_falls_to_its_end():
    config = dataclasses.replace(CONFIG, steps=100, optim=OptimConfig(warmup=10, final_lr=0.1))
    factors = np.asarray(jax.vmap(functools.partial(optim.schedule, config))(jnp.arange(100)))
    assert np.allclose(factors[:10], np.arange(1, 11) / 10)
    assert np.all(np.diff(factors[10:]) < 0)
    assert np.isclose(factors[-1], 0.1)


def test_update_is_adamw_with_the_parameters_own_mask():
    """Against optax.adamw over two steps; the mask is read from metadata."""
    config = dataclasses.replace(
        CONFIG, model=dataclasses.replace(TINY, mixer="mamba,gru", layers=2)
    )
    model = start(config).model
    is_variable = lambda leaf: isinstance(leaf, nnx.Variable)
    mask = jax.tree.map(
        lambda v: v.replace(v.get_metadata().get("decay", True)), model, is_leaf=is_variable
    )
    assert {True, False} == set(jax.tree.leaves(mask))
    reference = optax.adamw(1e-2, config.optim.b1, config.optim.b2, weight_decay=0.5, mask=mask)

    @jax.jit
    def both(model):
        ours, state, theirs, their_state = (
            model,
            optim.init(config.optim, model),
            model,
            reference.init(model),
        )
        for n in (1, 2):
            grads = jax.tree.map(lambda x, n=n: jnp.sin(n + x), model)
            ours, state = optim.update(
                config.optim, grads, state, ours, jnp.float32(1e-2), jnp.float32(0.5)
            )
            updates, their_state = reference.update(grads, their_state, theirs)
            theirs = optax.apply_updates(theirs, updates)
        return ours, theirs

    assert_close(*both(model), rtol=1e-5, atol=1e-7)


def test_clipping_bounds_the_global_norm_and_leaves_small_gradients():
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
    assert np.isclose(optax.tree.norm(optim.clip(grads, 1.0)), 1.0)
    assert equal(optim.clip(grads, 6.0), grads)
    assert equal(optim.clip(grads, math.inf), grads)


@pytest.mark.slow
def test_accumulation_is_one_large_batch():
    """Weights differ between micro-batches, so that means of means would be another number."""
    rows = batch()._replace(
        weights=np.random.default_rng(1).random((ROWS, LENGTH)).astype(np.float32) ** 4
    )
    split = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, accumulate=4))
    whole, metrics = one_step(CONFIG)(start(), rows, hyper(CONFIG))
    parts, part_metrics = one_step(split)(start(), rows, hyper(CONFIG))
    assert_close(metrics, part_metrics, rtol=1e-5)
    assert_close(whole.opt_state.adam.mu, parts.opt_state.adam.mu, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_whole_runs_can_be_vmapped_over_key_and_learning_rate():
    def run(key, lr):
        state = make_init(CONFIG)(key)
        return jax.lax.scan(
            lambda state, rows: step(state, rows, Hyper(lr, jnp.float32(0.1))), state, batches
        )

    step, start_from, batches = make_train_step(CONFIG), jax.jit(make_init(CONFIG)), cut(text(), 3)
    keys, lrs = jax.random.split(jax.random.key(1), 2), jnp.array([1e-2, 1e-3])
    together, metrics = jax.jit(jax.vmap(run))(keys, lrs)
    assert not np.allclose(metrics["loss"][0], metrics["loss"][1])
    for i in range(2):
        state, losses = start_from(keys[i]), []
        for rows in (jax.tree.map(lambda x, n=n: x[n], batches) for n in range(3)):
            state, alone = one_step(CONFIG)(state, rows, Hyper(lrs[i], jnp.float32(0.1)))
            losses.append(alone["loss"])
        np.testing.assert_allclose(metrics["loss"][i], losses, rtol=1e-4)
        assert_close(
            jax.tree.map(lambda x, i=i: x[i], together.model), state.model, rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(poison):
    step, good = one_step(CONFIG), batch()
    bad = good._replace(weights=np.where(np.arange(LENGTH) == 3, np.float32(poison), good.weights))
    before, _ = step(start(), good, hyper(CONFIG))
    state, refused = before, []
    for rows in (bad, bad):
        state, metrics = step(state, rows, hyper(CONFIG))
        refused.append(int(metrics["refused"]))
    assert refused == [1, 2]
    assert equal(state.model, before.model)
    assert equal(state.opt_state.adam, before.opt_state.adam)
    assert int(state.step) == int(before.step) + 2
    after, metrics = step(state, good, hyper(CONFIG))
    assert int(metrics["refused"]) == 0
    assert not equal(after.model, before.model)


def test_a_step_whose_update_is_not_finite_changes_nothing_but_the_count():
    """Loss and gradient of both are finite, and 1e30 leaves parameters that are."""
    step, before = one_step(CONFIG), start()
    after, metrics = step(before, batch(), Hyper(jnp.float32(1e30), jnp.float32(0.1)))
    assert int(metrics["refused"]) == 0 and not equal(after.model, before.model)
    after, metrics = step(before, batch(), Hyper(jnp.float32(3e38), jnp.float32(1e10)))
    assert jnp.isfinite(metrics["loss"]) and jnp.isfinite(metrics["grad_norm"])
    assert int(metrics["refused"]) == 1
    assert equal(after.model, before.model)
    assert equal(after.opt_state.adam, before.opt_state.adam)


@pytest.mark.slow
def test_z_loss_pulls_the_normaliser_to_one_and_is_not_reported_as_loss():
    """One plain gradient step along z-loss alone lowers log(Z)^2."""
    config = dataclasses.replace(CONFIG, optim=dataclasses.replace(CONFIG.optim, z_loss=1.0))
    state, rows = start(), batch()
    _, plain = one_step(CONFIG)(state, rows, hyper(CONFIG))
    after, metrics = one_step(config)(state, rows, hyper(config))
    assert metrics["loss"] == plain["loss"]
    assert metrics["grad_norm"] > plain["grad_norm"]
    log_z = lambda model: jnp.abs(jax.nn.logsumexp(model(rows.tokens), axis=-1)).mean()
    assert log_z(after.model) < log_z(state.model)


@pytest.mark.slow
def test_dropout_depends_on_the_seed_and_the_step_alone():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(TINY, dropout=0.5))
    step, rows, state = one_step(config), batch(), start(config)
    loss = lambda state: float(step(state, rows, hyper(config))[1]["loss"])
    assert loss(state) == loss(state)
    assert loss(state) != loss(state._replace(step=jnp.int32(1)))
    assert loss(state) != float(one_step(CONFIG)(state, rows, hyper(CONFIG))[1]["loss"])
