"""The programs of a run, with the shapes that they are compiled for: what memory and speed are
measured on.

program = train_program(config, mesh)
program.compile().memory_analysis()
count_flops(program.fn, *program.args)
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.stages import Compiled

from seqarch import generate
from seqarch.config import Config, ModelConfig, resolve
from seqarch.errors import unknown
from seqarch.model import LanguageModel
from seqarch.ops.forms import family
from seqarch.training import serving, sharding
from seqarch.training.state import hyper
from seqarch.types import PyTree, State

PHASES = {
    "train": "training step",
    "prefill": "prefill",
    "decode": "decoding step",
}  # and what tables call them
DECODED = 32  # tokens a row of one decoding loop
# spares half of the work on CPU, a third on GPU and there all that grows with a scan's length
UNOPTIMISED = {
    "cpu": {"xla_backend_optimization_level": 0},
    "gpu": {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_gpu_disable_gpuasm_optimizations": True,
        "xla_disable_hlo_passes": "dynamic-slice-annotator",
    },
}


class Program(NamedTuple):
    """fn: a jitted function; args: the shapes, dtypes and shardings of its arguments.

    name: what it is; programs of one run that have the same name and the same shapes are the same
    """

    name: str
    fn: Callable
    args: tuple[PyTree, ...]

    def compile(self, *, run: bool = True, options: dict[str, Any] | None = None) -> Compiled:
        """For the devices that the arguments are placed on, which need not exist, or else for JAX's
        default ones.

        run=False: only to be asked for its memory, which is planned before code is optimised: that
        is left out, where it can be. options: further ones of the compiler
        """
        here = jax.default_backend()
        devices = (
            d
            for leaf in jax.tree.leaves(self.args)
            if leaf.sharding
            for d in leaf.sharding.device_set
        )
        platform = family(device.platform) if (device := next(devices, None)) else here
        options = ({} if run else UNOPTIMISED.get(platform, {})) | (options or {})
        elsewhere = {"gpu": "cuda"}.get(platform, platform)
        lowered = self.fn.trace(*self.args).lower(
            lowering_platforms=None if platform == here else (elsewhere,)
        )
        return lowered.compile(options or None)


def programs(config: Config, model: LanguageModel, mesh: Mesh, context: int) -> dict[str, Program]:
    """What runs at a context of `context` tokens, by phase: "train" is the run's step with rows of
    that length; "prefill" of a segment and the "decode" loop are of one sequence, their states made
    for the whole context.

    model: as `LanguageModel.serving` makes it, concrete or abstract
    """
    return {
        "train": train_program(dataclasses.replace(config, length=context), mesh),
        "prefill": prefill_program(model, 1, min(config.length, context), context),
        "decode": decode_loop_program(model, 1, context),
    }


def phase_program(config: Config, phase: str, batch: int, length: int, mesh: Mesh) -> Program:
    """The program of a phase for `batch` sequences of `length` tokens on `mesh`, of which nothing
    is allocated.

    "train" is the train step with its rows; "prefill" reads a segment of at most config.length
    tokens of each prompt, "decode" is the loop that writes DECODED tokens of each, from states that
    are made for `length` tokens. Parameters are in the dtype that serves and split as in training,
    rows over all devices; where these don't divide the rows, the heads of states are, if they can
    be.
    """
    if phase == "train":
        return train_program(dataclasses.replace(config, batch=batch, length=length), mesh)
    state = sharding.abstract_state(resolve(config, mesh), mesh)
    model = jax.eval_shape(LanguageModel.serving, state.model)
    if phase == "prefill":
        program = prefill_program(model, batch, min(config.length, length), length)
    elif phase == "decode":
        program = decode_loop_program(model, batch, length)
    else:
        raise unknown("phase", phase, PHASES)
    return program._replace(
        args=sharding.placed(program.args, _serving_shardings(model, program.args, mesh, batch))
    )


def given_states(program: Program) -> tuple[State, ...]:
    """The abstract states among the arguments of a program that serves."""
    return next(
        arg.states if isinstance(arg, generate.Decoding) else arg
        for arg in program.args[1:]
        if isinstance(arg, tuple)
    )


def _serving_shardings(
    model: LanguageModel, args: tuple[PyTree, ...], mesh: Mesh, batch: int
) -> tuple[PyTree, ...]:
    """Of the model, by its axes, of states, and of the other arguments, whose rows are split where
    devices divide them.
    """
    split, whole = batch % mesh.size == 0, NamedSharding(mesh, PartitionSpec())
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names)) if split else whole
    states = functools.partial(serving.state_shardings, model, mesh=mesh)

    def of(arg: PyTree) -> PyTree:
        if isinstance(arg, generate.Decoding):
            return generate.Decoding(rows, states(arg.states), rows)
        if isinstance(arg, tuple):
            return states(arg)
        return rows if arg.ndim else whole

    return sharding.shardings(model, mesh), *(of(arg) for arg in args[1:])


def train_program(config: Config, mesh: Mesh) -> Program:
    """(state, batch, hyper) -> (state, metrics): the step that `train.py` runs; the state is
    donated.
    """
    config, replicated = resolve(config, mesh), NamedSharding(mesh, PartitionSpec())
    scalars = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), hyper(config)
    )
    args = sharding.abstract_state(config, mesh), sharding.abstract_batch(config, mesh), scalars
    name = f"train step of {config.batch} x {config.length} tokens"
    return Program(name, sharding.jit_train_step(config, mesh), args)


def prefill_program(model: LanguageModel, batch: int, segment: int, max_len: int) -> Program:
    """(model, tokens, states, lengths, hidden) -> (hidden, states): a segment of prompts, as
    `generate` reads them.
    """
    tokens, lengths = (
        jax.ShapeDtypeStruct((batch, segment), jnp.int32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
    )
    hidden = jax.ShapeDtypeStruct((batch, model.embedding.shape[1]), model.dtype)
    args = abstract(model), tokens, abstract_states(model, batch, max_len), lengths, hidden
    return Program(f"prefill of {batch} x {segment} tokens", generate.prefill_segment, args)


def decode_loop_program(model: LanguageModel, batch: int, max_len: int) -> Program:
    """(model, decoding, key) -> (tokens, decoding): DECODED greedy tokens of each row, as
    `generate` decodes them.
    """
    logits = jax.ShapeDtypeStruct((batch, model.head.shape[1]), jnp.float32)
    done = jax.ShapeDtypeStruct((batch,), jnp.bool)
    at = generate.Decoding(logits, abstract_states(model, batch, max_len), done)
    return Program(
        "decode loop", _loop, (abstract(model), at, jax.eval_shape(lambda: jax.random.key(0)))
    )


@functools.cache
def serving_model(config: ModelConfig) -> LanguageModel:
    """Abstract, and as prefill and decoding want it."""
    return jax.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)).serving())


def abstract(tree: PyTree) -> PyTree:
    """Shapes and dtypes of the arrays in `tree`."""
    return jax.eval_shape(lambda tree: tree, tree)


def abstract_states(model: LanguageModel, batch: int, max_len: int) -> tuple[State, ...]:
    return jax.eval_shape(lambda model: model.init_state(batch, max_len), model)


_greedy = functools.partial(
    generate.decode_unchecked, steps=DECODED, sampling=generate.Sampling(temperature=0.0)
)
_loop = jax.jit(_greedy, donate_argnames="at")
