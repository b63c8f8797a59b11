"""The programs of a run: the train step, and the prefill and the decoding of a served model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqarch import decoding
from seqarch.config import Config, ModelConfig, resolve
from seqarch.costs.program import Program, abstract
from seqarch.errors import unknown
from seqarch.model import LanguageModel, make_model
from seqarch.sampling import Sampling
from seqarch.training import serving, sharding
from seqarch.training.sharded_step import (
    abstract_batch,
    abstract_state,
    batch_layout,
    jit_train_step,
)
from seqarch.training.state import hyper
from seqarch.types import PyTree, State

# The phases of a run, and their names in tables.
PHASES = {"train": "training step", "prefill": "prefill", "decode": "decoding step"}
DECODED = 32  # tokens of a row that one decoding loop writes


def programs(config: Config, model: LanguageModel, mesh: Mesh, context: int) -> dict[str, Program]:
    """Returns the programs at one context, by phase.

    "train" is the run's step with rows of that length. "prefill" reads a segment and "decode" loops
    over tokens of one sequence, with states that are made for the whole context. The prefill of an
    encoder-decoder encodes a source (`decoding_room`).

    Args:
      config: the run's config.
      model: as `LanguageModel.serving` makes it, concrete or abstract.
      mesh: that of training.
      context: tokens.
    """
    return {
        "train": train_program(dataclasses.replace(config, length=context), mesh),
        "prefill": _prefill_program(config, model, 1, context),
        "decode": decode_loop_program(model, 1, **decoding_room(config, context)),
    }


def phase_program(config: Config, phase: str, batch: int, length: int, mesh: Mesh) -> Program:
    """Returns the program of a phase; nothing is allocated.

    "train" is the train step with its rows. "prefill" reads a segment of at most config.length
    tokens of each prompt, or all of each source (`decoding_room`), and "decode" is the loop that
    writes DECODED tokens of each, from states that are made for `length` tokens. Both have
    parameters in the dtype that serves, split as in training, and rows split over all devices.
    Where devices do not divide the rows, the heads of states are split, if they can be.

    Args:
      config: the run's config.
      phase: a name in PHASES.
      batch: rows.
      length: tokens of each row.
      mesh: the devices.

    Raises:
      UserError: for an unknown phase.
    """
    if phase == "train":
        return train_program(dataclasses.replace(config, batch=batch, length=length), mesh)
    state = abstract_state(resolve(config, mesh), mesh)
    model = jax.eval_shape(LanguageModel.serving, state.model)
    if phase == "prefill":
        program = _prefill_program(config, model, batch, length)
    elif phase == "decode":
        program = decode_loop_program(model, batch, **decoding_room(config, length))
    else:
        raise unknown("phase", phase, PHASES)
    shardings = _serving_shardings(model, program.args, mesh, batch)
    in_force = mesh if mesh.size > 1 else None
    return program._replace(args=sharding.placed(program.args, shardings), mesh=in_force)


def decoding_room(config: Config, context: int) -> dict[str, int]:
    """Returns the arguments of `abstract_states` at a context, but for model and rows.

    For an encoder-decoder the context is the tokens of the source, and there is room for a target
    as long as in training.
    """
    if not config.model.encodes:
        return dict(max_len=context)
    _, time = batch_layout(config).columns(config.length)
    return dict(max_len=max(time, DECODED), source=context)


def _prefill_program(config: Config, model: LanguageModel, batch: int, context: int) -> Program:
    if config.model.encodes:
        return encode_program(model, batch, **decoding_room(config, context))
    return prefill_program(model, batch, min(config.length, context), context)


def given_states(program: Program) -> tuple[State, ...]:
    """Returns the abstract states among the arguments of a program that serves; () of none."""
    given = next((arg for arg in program.args[1:] if isinstance(arg, tuple)), ())
    return given.states if isinstance(given, decoding.Decoding) else given


def _serving_shardings(
    model: LanguageModel, args: tuple[PyTree, ...], mesh: Mesh, batch: int
) -> tuple[PyTree, ...]:
    """Returns the shardings of the model, of states, and of other arguments.

    Rows of other arguments are split where devices divide them.
    """
    split, whole = batch % mesh.size == 0, NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names)) if split else whole
    states = functools.partial(serving.state_shardings, model, mesh=mesh)

    def of(arg: PyTree) -> PyTree:
        if isinstance(arg, decoding.Decoding):
            return decoding.Decoding(rows, states(arg.states), rows)
        if isinstance(arg, tuple):
            return states(arg)
        return rows if arg.ndim else whole

    return sharding.shardings(model, mesh), *(of(arg) for arg in args[1:])


def train_program(config: Config, mesh: Mesh) -> Program:
    """Returns the step that `train.py` runs: (state, batch, hyper) -> (state, metrics).

    The state is donated. Where steps are small, `train.py` runs several of them in one dispatch
    (seqarch/training/dispatch.py).
    """
    config, replicated = resolve(config, mesh), NamedSharding(mesh, PartitionSpec())

    def placed(x: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated)

    scalars = jax.tree.map(placed, hyper(config))
    args = abstract_state(config, mesh), abstract_batch(config, mesh), scalars
    name = f"train step of {config.batch} x {config.length} tokens"
    return Program(name, jit_train_step(config, mesh), args)


def prefill_program(model: LanguageModel, batch: int, segment: int, max_len: int) -> Program:
    """Returns the program with which `generate` reads a segment of prompts.

    It is (model, tokens, states, lengths, hidden) -> (hidden, states).
    """
    tokens = jax.ShapeDtypeStruct((batch, segment), jnp.int32)
    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
    hidden = jax.ShapeDtypeStruct((batch, model.embedding.shape[1]), model.dtype)
    args = abstract(model), tokens, abstract_states(model, batch, max_len), lengths, hidden
    return Program(f"prefill of {batch} x {segment} tokens", decoding.prefill_segment, args)


def encode_program(model: LanguageModel, batch: int, max_len: int, source: int) -> Program:
    """Returns the program with which `generate` encodes sources of `source` tokens.

    It is (model, source) -> states, which have room for a target of `max_len` tokens.
    """
    tokens = jax.ShapeDtypeStruct((batch, source), jnp.int32)
    name = f"encoding of {batch} x {source} tokens"
    return Program(name, decoding.jit_encode(max_len), (abstract(model), tokens))


def decode_loop_program(
    model: LanguageModel, batch: int, max_len: int, source: int | None = None
) -> Program:
    """Returns the loop with which `generate` decodes DECODED greedy tokens of each row.

    It is (model, decoding, key) -> (tokens, decoding).

    Args:
      model: see `abstract_states`, as for the others.
      batch: rows.
      max_len: tokens of each.
      source: tokens of an encoder-decoder's source.
    """
    logits = jax.ShapeDtypeStruct((batch, model.embedding.shape[0]), jnp.float32)
    done = jax.ShapeDtypeStruct((batch,), jnp.bool)
    at = decoding.Decoding(logits, abstract_states(model, batch, max_len, source), done)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return Program("decode loop", _loop, (abstract(model), at, key))


@functools.cache
def serving_model(config: ModelConfig) -> LanguageModel:
    """Returns the abstract model of a config, as prefill and decoding use it."""
    return jax.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0)).serving())


def abstract_states(
    model: LanguageModel, batch: int, max_len: int, source: int | None = None
) -> tuple[State, ...]:
    """Returns shapes and dtypes of the states of `batch` sequences of `max_len` tokens.

    `source`: tokens of an encoder-decoder's source.
    """
    room = (max_len,) if source is None else (max_len, source)
    return jax.eval_shape(lambda model: model.init_state(batch, *room), model)


_greedy = functools.partial(
    decoding.decode_unchecked, steps=DECODED, sampling=Sampling(temperature=0.0)
)
_loop = jax.jit(_greedy, donate_argnames="at")
