"""The programs that a run consists of, with the shapes that they are compiled for: what memory and speed are measured on.

    program = train_program(config, mesh)
    program.compile().memory_analysis()
    count_flops(program.fn, *program.args)
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Compiled

from seqarch.config import Config
from seqarch.model import LanguageModel
from seqarch.training import sharding
from seqarch.training.state import hyper
from seqarch.types import Array, Float, Int, PyTree, State

DECODED = 32  # tokens of one decoding loop


class Program(NamedTuple):
    """fn: a jitted function; args: the shapes, dtypes and shardings of its arguments.

    name: what it is; programs of one run that have the same name and the same shapes are the same
    """

    name: str
    fn: Callable
    args: tuple[PyTree, ...]

    def compile(self) -> Compiled:
        return self.fn.trace(*self.args).lower().compile()


def programs(config: Config, model: LanguageModel, mesh: Mesh, context: int) -> dict[str, Program]:
    """What runs at a context of `context` tokens, by phase: "train" is the run's step with rows of that length; "prefill"
    of a segment and "decode" are of one sequence, their states made for the whole context.

    model: unstacked, concrete or abstract
    """
    return {
        "train": train_program(dataclasses.replace(config, length=context), mesh),
        "prefill": prefill_program(model, 1, min(config.length, context), context),
        "decode": decode_program(model, 1, context),
    }


def train_program(config: Config, mesh: Mesh) -> Program:
    """(state, batch, hyper) -> (state, metrics): the step that `train.py` runs; the state is donated."""
    replicated = NamedSharding(mesh, PartitionSpec())
    scalars = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), hyper(config))
    args = sharding.abstract_state(config, mesh), sharding.abstract_batch(config, mesh), scalars
    return Program(f"train step of {config.batch} x {config.length} tokens", sharding.jit_train_step(config, mesh), args)


def prefill_program(model: LanguageModel, batch: int, segment: int, max_len: int) -> Program:
    """(model, tokens, lengths, states) -> (logits after the last token, states): a segment of a prompt; states are donated."""
    tokens, lengths = jax.ShapeDtypeStruct((batch, segment), jnp.int32), jax.ShapeDtypeStruct((batch,), jnp.int32)
    args = abstract(model), tokens, lengths, abstract_states(model, batch, max_len)
    return Program(f"prefill of {batch} x {segment} tokens", _prefill, args)


def decode_program(model: LanguageModel, batch: int, max_len: int) -> Program:
    """(model, tokens, states) -> (logits, states): one token of each row; states are donated."""
    tokens = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return Program("decode step", _decode, (abstract(model), tokens, abstract_states(model, batch, max_len)))


def decode_loop_program(model: LanguageModel, batch: int, max_len: int) -> Program:
    """(model, tokens, states) -> (tokens, states): DECODED greedy tokens of each row in one scan; states are donated."""
    return decode_program(model, batch, max_len)._replace(name="decode loop", fn=_decode_loop)


def abstract(tree: PyTree) -> PyTree:
    """Shapes and dtypes of the arrays in `tree`."""
    return jax.eval_shape(lambda tree: tree, tree)


def abstract_states(model: LanguageModel, batch: int, max_len: int) -> tuple[State, ...]:
    return jax.eval_shape(lambda model: model.init_state(batch, max_len), model)


@jax.jit(donate_argnames="states")
def _prefill(
    model: LanguageModel, tokens: Int[Array, "B T"], lengths: Int[Array, "B"], states: tuple[State, ...]
) -> tuple[Float[Array, "B Y"], tuple[State, ...]]:
    hidden, states = model.prefill(tokens, states, lengths=lengths)
    last = jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]
    return model.logits(last), states


@jax.jit(donate_argnames="states")
def _decode(
    model: LanguageModel, tokens: Int[Array, "B"], states: tuple[State, ...]
) -> tuple[Float[Array, "B Y"], tuple[State, ...]]:
    return model.step(tokens, states)


@jax.jit(donate_argnames="states")
def _decode_loop(
    model: LanguageModel, tokens: Int[Array, "B"], states: tuple[State, ...]
) -> tuple[Int[Array, "B"], tuple[State, ...]]:
    def step(carry, _):
        logits, states = model.step(*carry)
        return (logits.argmax(-1).astype(jnp.int32), states), None

    return jax.lax.scan(step, (tokens, states), length=DECODED)[0]
