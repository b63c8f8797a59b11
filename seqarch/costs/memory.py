"""What a model needs to be held, trained and served, in bytes that were measured: shapes of the
arrays that the model makes, and what the compiler says of the compiled programs. Nothing here is
computed from a formula.

    measure(config, "decode", batch=1, length=131072, target="tpu-v5e").total
"""

import math
from typing import Any, NamedTuple

import jax

from seqarch.config import Config
from seqarch.costs.compiler import (
    CUBLAS,
    UNTILED,
    CompiledBytes,
    codeless,
    compiled_bytes,
    refused_bytes,
)
from seqarch.costs.devices import place
from seqarch.costs.programs import (
    DECODED,
    Program,
    abstract_states,
    given_states,
    phase_program,
    serving_model,
)
from seqarch.errors import UserError
from seqarch.flops import count_flops
from seqarch.model import LanguageModel
from seqarch.training.sharding import make_mesh
from seqarch.types import PyTree


class Measurement(NamedTuple):
    """Bytes on each device while a program runs, by part; `measure` makes it.

    parameters, optimizer, state: arrays that are given to the program; the state is a cache, where
      a mixer has one
    gradients: one array for each parameter, which the compiler counts among the temporaries
    arguments: parameters, optimizer, state and inputs, where the compiler tells in its layouts,
      which may pad them
    outputs, aliased: None where the compiler refuses the program
    total: by `definition`, which depends on the backend; memory: what the device has for programs
    flops: of one call, or of decoding one token a row, on all devices together; loops count once
      for every trip
    """

    parameters: int
    gradients: int
    optimizer: int
    state: int
    arguments: int
    outputs: int | None
    aliased: int | None
    temporaries: int
    total: int
    definition: str
    memory: int
    flops: float

    @property
    def fits(self) -> bool:
        return self.total <= self.memory

    @property
    def working(self) -> int:
        """What the program needs beside what it is given to keep: inputs, gradients and
        temporaries.
        """
        return self.total - self.parameters - self.optimizer - self.state


def measure(config: Config, phase: str, batch: int, length: int, target: str) -> Measurement:
    """Compiles the train step, prefill or decoding loop (see `phase_program`) for a target and asks
    the compiler what it needs.

    target: a name in seqarch.devices.DEVICES, with or without its chips; it decides the forms of
      the ops
    Nothing is allocated, so any size will do, and what does not fit is a result. Raises UserError
    for what cannot be asked, JaxRuntimeError where the compiler fails.
    """
    if batch < 1 or length < 1:
        raise UserError(f"batch is {batch} and length {length}; give numbers of at least 1")
    placement = place(target)
    mesh = make_mesh(config.mesh, placement.devices())
    program, memory = (
        phase_program(config, phase, batch, length, mesh),
        placement.memory(mesh.devices.flat[0]),
    )
    options = {} if placement.present else codeless(placement.target.platform, memory)
    planned = _planned(program, options)
    flops = count_flops(program.fn, *program.args).total / (DECODED if phase == "decode" else 1)
    return Measurement(**_parts(program, phase), **planned._asdict(), memory=memory, flops=flops)


def _planned(program: Program, options: dict[str, Any]) -> CompiledBytes:
    """options: of `codeless` where the device is not here; only there a product may be left to
    NVIDIA's library instead.
    """
    try:
        return compiled_bytes(program.compile(run=False, options=options))
    except jax.errors.JaxRuntimeError as error:
        if UNTILED in str(error) and options and options != options | CUBLAS:
            return _planned(program, options | CUBLAS)
        return refused_bytes(error, device_bytes(program.args))


def _parts(program: Program, phase: str) -> dict[str, int]:
    given = program.args[0]
    if phase == "train":
        parameters = device_bytes(given.model)
        return dict(
            parameters=parameters,
            gradients=parameters,
            optimizer=device_bytes(given.opt_state),
            state=0,
        )
    return dict(
        parameters=device_bytes(given),
        gradients=0,
        optimizer=0,
        state=device_bytes(given_states(program)),
    )


class StateSize(NamedTuple):
    """What one sequence keeps: array elements, their bytes, and their dtypes, the one with most
    bytes first.
    """

    elements: int
    bytes: int
    dtypes: str


def state_size(model: LanguageModel, max_len: int, batch: int = 1) -> StateSize:
    """Of the states that `model` makes for sequences of `max_len` tokens; nothing is allocated."""
    leaves = jax.tree.leaves(abstract_states(model, batch, max_len))
    by_dtype: dict[str, int] = {}
    for leaf in leaves:
        by_dtype[leaf.dtype.name] = by_dtype.get(leaf.dtype.name, 0) + tree_bytes(leaf)
    return StateSize(
        count(leaves),
        tree_bytes(leaves),
        "+".join(sorted(by_dtype, key=by_dtype.get, reverse=True)),
    )


def state_bytes(config: Config, max_len: int) -> int:
    """Of one sequence of `max_len` tokens, in a model of `config`."""
    return state_size(serving_model(config.model), max_len).bytes


def count(tree: PyTree) -> int:
    """Elements of all arrays, concrete or abstract."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all arrays, concrete or abstract."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes(tree: PyTree) -> int:
    """Bytes of abstract arrays with shardings, on one device."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )
