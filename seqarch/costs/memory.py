"""Bytes that a model needs to be held, trained and served.

    measure(config, "decode", batch=1, length=131072, target="tpu-v5e").total

They come from the shapes of the arrays that a model makes and from the compiler's plan. None is
computed from a formula.
"""

import functools
from typing import Any, NamedTuple

import jax

from seqarch.config import Config, ModelConfig
from seqarch.costs.compiler import (
    CODE,
    CUBLAS,
    UNTILED,
    CompiledBytes,
    codeless,
    compiled_bytes,
    parse_refusal,
    refused_bytes,
)
from seqarch.costs.devices import place
from seqarch.costs.program import Program
from seqarch.costs.programs import (
    DECODED,
    abstract_states,
    given_states,
    phase_program,
    serving_model,
)
from seqarch.errors import UserError
from seqarch.flops import count_flops
from seqarch.model import LanguageModel
from seqarch.training.sharding import device_bytes, make_mesh
from seqarch.types import PyTree


class Measurement(NamedTuple):
    """Bytes on each device while a program runs, by part, and its FLOPs.

    Attributes:
      parameters: bytes of parameters that are given to the program.
      gradients: bytes of one array for each parameter, which are among the temporaries.
      optimizer: bytes of the optimizer's state that is given to the program.
      state: bytes of the mixers' states, including caches, that are given to the program.
      arguments: bytes of parameters, optimizer, state and inputs, in the compiler's layouts if it
        tells them, which may pad arrays.
      outputs: bytes of outputs; None where the compiler refuses the program.
      aliased: bytes of donated arguments that outputs are written to; None likewise.
      temporaries: bytes of temporaries.
      total: bytes of the whole program, by `definition`.
      definition: depends on the backend; totals of different definitions do not compare.
      memory: bytes that the device has for programs.
      flops: FLOPs of one call, or of decoding one token of each row, on all devices together; loops
        count once for every trip.
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
        """Whether the device has the memory."""
        return self.total <= self.memory

    @property
    def working(self) -> int:
        """Bytes of inputs, gradients and temporaries."""
        return self.total - self.parameters - self.optimizer - self.state


def measure(config: Config, phase: str, batch: int, length: int, target: str) -> Measurement:
    """Compiles the program of a phase for a target and returns what it needs.

    Nothing is allocated, so that programs of any size are measured, whether they fit or not.

    Args:
      config: the run's config.
      phase: "train", "prefill" or "decode" (see `phase_program`).
      batch: rows.
      length: tokens of context.
      target: a name in seqarch.devices.DEVICES, with or without its chips; it decides the forms of
        the ops.

    Raises:
      UserError: for sizes below 1, an unknown phase or target, and a compiler that is not there.
      JaxRuntimeError: where the compiler fails.
    """
    if batch < 1 or length < 1:
        raise UserError(f"batch is {batch} and length {length}; give numbers of at least 1")
    placement = place(target)
    mesh = make_mesh(config.mesh, placement.devices())
    program = phase_program(config, phase, batch, length, mesh)
    memory = placement.memory(mesh.devices.flat[0])
    options = {} if placement.present else codeless(placement.target.platform, memory)
    planned = _planned(program, options)
    flops = count_flops(program.fn, *program.args).total / (DECODED if phase == "decode" else 1)
    return Measurement(**_parts(program, phase), **planned._asdict(), memory=memory, flops=flops)


def _planned(program: Program, options: dict[str, Any]) -> CompiledBytes:
    """Returns the compiler's plan; options: those of `codeless` for an absent device.

    For an absent GPU, products that XLA cannot compile are left to NVIDIA's library. For an absent
    TPU, a program that is so small that only its code exceeds what `codeless` allows is compiled.
    """
    try:
        return compiled_bytes(program.compile(run=False, options=options))
    except jax.errors.JaxRuntimeError as error:
        if UNTILED in str(error) and options and options != options | CUBLAS:
            return _planned(program, options | CUBLAS)
        if CODE in str(error) and options and parse_refusal(str(error)) is None:
            return compiled_bytes(program.compile())
        return refused_bytes(error, device_bytes(program.args))


def _parts(program: Program, phase: str) -> dict[str, int]:
    """Returns the bytes of the arrays that a program is given, and of gradients."""
    first = program.args[0]
    if phase == "train":
        parameters, optimizer = device_bytes(first.model), device_bytes(first.opt_state)
        return dict(parameters=parameters, gradients=parameters, optimizer=optimizer, state=0)
    state = device_bytes(given_states(program))
    return dict(parameters=device_bytes(first), gradients=0, optimizer=0, state=state)


class StateSize(NamedTuple):
    """Size of the state of sequences.

    Attributes:
      elements: array elements.
      bytes: bytes of them.
      dtypes: names of their dtypes, joined by "+", the one with most bytes first.
    """

    elements: int
    bytes: int
    dtypes: str


def state_size(
    model: LanguageModel, max_len: int, batch: int = 1, source: int | None = None
) -> StateSize:
    """Returns the size of the state of `batch` sequences of `max_len` tokens; allocates nothing.

    `source`: tokens of an encoder-decoder's source.
    """
    leaves = jax.tree.leaves(abstract_states(model, batch, max_len, source))
    by_dtype: dict[str, int] = {}
    for leaf in leaves:
        by_dtype[leaf.dtype.name] = by_dtype.get(leaf.dtype.name, 0) + tree_bytes(leaf)
    dtypes = "+".join(sorted(by_dtype, key=by_dtype.get, reverse=True))
    return StateSize(elements(leaves), tree_bytes(leaves), dtypes)


@functools.cache
def state_bytes(model: ModelConfig, length: int, source: int = 0) -> int:
    """Returns the bytes of the state of one sequence after `length` tokens.

    Args:
      model: the model.
      length: tokens of the sequence.
      source: those that an encoder-decoder encodes; a language model reads them as the others.
    """
    room = dict(max_len=length - source, source=source) if model.encodes else dict(max_len=length)
    return state_size(serving_model(model), **room).bytes


def elements(tree: PyTree) -> int:
    """Returns the number of elements of all arrays, concrete or abstract."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def tree_bytes(tree: PyTree) -> int:
    """Returns the bytes of all arrays, concrete or abstract."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
