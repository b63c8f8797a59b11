"""Models of tests, and their steps, in few programs."""

import functools

import jax
import numpy as np
from flax import nnx

from seqarch.config import ModelConfig
from seqarch.model import LanguageModel, make_model


@functools.cache
def build(config: ModelConfig, seed: int = 0) -> LanguageModel:
    """Returns the model of a config, made by one program instead of one for each operation."""
    return jax.jit(lambda: make_model(config, rngs=nnx.Rngs(seed)))()


def noisy(model: LanguageModel) -> LanguageModel:
    """Returns the model in arrays of numpy, with noise in every parameter, biases included."""
    rng = np.random.default_rng(0)
    noise = lambda x: np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype(np.float32)
    return jax.tree.map(noise, model)


def stepped(model, tokens, states):
    """Returns a model's logits [B, T, Y] after each of the tokens [B, T], and the last states.

    Outside of a jit equal layers are one program, and in a loop under jit one for each.
    """
    logits = []
    for token in np.asarray(tokens).T:
        each, states = model.step(token, states)
        logits.append(each)
    return np.stack(logits, 1), states
