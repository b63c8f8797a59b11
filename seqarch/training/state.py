"""The train state, the loss and the train step, as pure functions that callers jit or vmap."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from seqarch import tasks
from seqarch.config import Config, ModelConfig, OptimConfig
from seqarch.model import LanguageModel, make_model
from seqarch.tasks.base import ACCURACY
from seqarch.tasks.batch import Batch
from seqarch.training import optim
from seqarch.types import Array, Bool, Float, Int, PyTree


class Hyper(NamedTuple):
    """The traced hyper-parameters, which a vmapped run may vary.

    lr: the peak learning rate.
    weight_decay: of the parameters that have one.
    """

    lr: Float[Array, ""]
    weight_decay: Float[Array, ""]


class OptState(NamedTuple):
    """The optimizer's state.

    adam: the moments.
    refused: the number of last steps in a row that were not applied because they were not finite.
    """

    adam: optax.ScaleByAdamState
    refused: Int[Array, ""]


class TrainState(NamedTuple):
    """The carry of training.

    step: batches consumed, those of refused steps included.
    model: the parameters.
    opt_state: the optimizer's state.
    """

    step: Int[Array, ""]
    model: LanguageModel
    opt_state: OptState


class _Sums(NamedTuple):
    """Weighted sums over tokens.

    grads: of the gradients of the objective
    nats: of the cross-entropy
    correct: of correct predictions; 0 where the task is not scored by accuracy
    weight: of the weights
    """

    grads: PyTree
    nats: Float[Array, ""]
    correct: Float[Array, ""]
    weight: Float[Array, ""]


def hyper(config: Config) -> Hyper:
    """Returns the traced hyper-parameters of a config."""
    return Hyper(jnp.float32(config.optim.lr), jnp.float32(config.optim.weight_decay))


def token_losses(model: LanguageModel, batch: Batch) -> Float[Array, "B Q"]:
    """Returns the unweighted -log p(target) at scored positions, in nats, without dropout."""
    return _losses(model, batch, None)[0]


def token_scores(
    model: LanguageModel, batch: Batch
) -> tuple[Float[Array, "B Q"], Bool[Array, "B Q"]]:
    """Returns the nats of each target, and whether it is the most likely token."""
    nats, _, logits = _losses(model, batch, None)
    return nats, logits.argmax(axis=-1) == batch.targets


def make_init(config: Config) -> Callable[[Array], TrainState]:
    """Returns the function from a key to the state before the first step.

    Runs of the same model in one process share it, so that JAX traces and compiles it once; but not
    those of a user's own mixer, whose code may have changed between them.
    """
    make = _make_init if config.model.foreign else _shared_init
    return make(config.model, config.optim)


def _make_init(model: ModelConfig, optimizer: OptimConfig) -> Callable[[Array], TrainState]:
    def init(key: Array) -> TrainState:
        made = make_model(model, rngs=nnx.Rngs(key))
        opt_state = OptState(optim.init(optimizer, made), jnp.int32(0))
        return TrainState(jnp.int32(0), made, opt_state)

    return init


_shared_init = functools.lru_cache(maxsize=8)(_make_init)


def make_train_step(
    config: Config,
) -> Callable[[TrainState, Batch, Hyper], tuple[TrainState, dict[str, Array]]]:
    """Returns the train step: (state, batch, hyper) -> (state, metrics).

    The metrics are scalars, by their names in METRICS: loss, grad_norm, learning_rate, refused and,
    where the task is scored by it, accuracy. A step whose loss, gradient or new parameters are not
    finite leaves model and moments unchanged. The noise of dropout depends only on the model seed
    and the step.
    """

    def train_step(
        state: TrainState, batch: Batch, hyper: Hyper
    ) -> tuple[TrainState, dict[str, Array]]:
        key = None
        if config.model.dropout:
            key = jax.random.fold_in(jax.random.key(config.seed.model), state.step)
        sums = _accumulate(config, state.model, batch, key)
        loss = sums.nats / sums.weight
        grads = jax.tree.map(lambda grad: grad / sums.weight, sums.grads)
        norm = optax.tree.norm(grads)
        lr = hyper.lr * optim.schedule(config, state.step)
        grads = optim.clip(grads, config.optim.clip)
        model, adam = optim.update(
            config.optim, grads, state.opt_state.adam, state.model, lr, hyper.weight_decay
        )

        finite = jnp.isfinite(loss) & jnp.isfinite(norm) & _all_finite(model)
        new, old = (model, adam), (state.model, state.opt_state.adam)
        model, adam = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
        refused = jnp.where(finite, 0, state.opt_state.refused + 1)
        metrics = dict(loss=loss, grad_norm=norm, learning_rate=lr, refused=refused)
        if _counts_correct(config):
            metrics["accuracy"] = sums.correct / sums.weight
        return TrainState(state.step + 1, model, OptState(adam, refused)), metrics

    return train_step


def _counts_correct(config: Config) -> bool:
    return tasks.find(config.task).score == ACCURACY


def _all_finite(model: LanguageModel) -> Bool[Array, ""]:
    """Returns whether every parameter is finite, without a sum or norm, which might overflow."""
    each = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(model)]
    return jnp.stack(each).all()


def _accumulate(config: Config, model: LanguageModel, batch: Batch, key: Array | None) -> _Sums:
    """Returns the sums over all micro-batches, which are computed one after the other.

    The caller divides by the weight of the whole batch. Of n micro-batches, number i has every n-th
    row from row i on, so that each device slices its own rows.
    """
    count, counts = config.optim.accumulate, _counts_correct(config)
    micro = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)

    def objective(
        model: LanguageModel, rows: Batch, key: Array | None
    ) -> tuple[Float[Array, ""], tuple[Float[Array, ""], Float[Array, ""]]]:
        nats, log_z, logits = _losses(model, rows, key)
        total = nats + config.optim.z_loss * jnp.square(log_z)
        right = jnp.float32(0)
        if counts:
            right = ((logits.argmax(axis=-1) == rows.targets) * rows.weights).sum()
        return (total * rows.weights).sum(), ((nats * rows.weights).sum(), right)

    def add(sums: _Sums, inputs: tuple[Int[Array, ""], Batch]) -> tuple[_Sums, None]:
        index, rows = inputs
        noise = None if key is None else jax.random.fold_in(key, index)
        (_, found), grads = jax.value_and_grad(objective, has_aux=True)(model, rows, noise)
        return jax.tree.map(jnp.add, sums, _Sums(grads, *found, rows.weights.sum())), None

    zero = _Sums(optax.tree.zeros_like(model), *[jnp.float32(0)] * 3)
    return jax.lax.scan(add, zero, (jnp.arange(count), micro))[0]


def _losses(
    model: LanguageModel, batch: Batch, key: Array | None
) -> tuple[Float[Array, "B Q"], Float[Array, "B Q"], Float[Array, "B Q Y"]]:
    """Returns the nats of the targets, log Z, and the logits.

    The z-loss penalises the square of log Z (Chowdhery et al. 2022, "PaLM", section 5).
    """
    source = {} if batch.source is None else dict(source=batch.source)
    logits = model(batch.tokens, batch.starts, batch.positions, key=key, **source)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    target = jnp.take_along_axis(logits, batch.targets[..., None], axis=-1)[..., 0]
    return log_z - target, log_z, logits
