"""The time that programs take on devices that are here.

    clock(config, "train", batch=8, length=2048, target="local").median

A model with the run's initialisation reads random tokens. Caches are as full as the context says:
what is timed of prefill and of decoding are the last tokens of the context, after a real prefill of
those before. Each time is the median of several blocking runs, without compilation.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.stages import Compiled

from seqarch.config import Config, resolve
from seqarch.costs.devices import place
from seqarch.costs.program import Program
from seqarch.costs.programs import DECODED, phase_program
from seqarch.decoding import Decoding
from seqarch.errors import UserError
from seqarch.model import LanguageModel
from seqarch.tasks.batch import example_batch
from seqarch.training.sharded_step import batch_layout, init_state
from seqarch.training.sharding import make_mesh, put_batch
from seqarch.training.state import TrainState, hyper
from seqarch.types import Int, PyTree, State

REPEATS = 3  # runs of which the median is reported
MAPPED_BYTES = 64 << 20  # more than malloc ever takes from its heap
States = tuple[State, ...]
Read = Callable[[States, int, int], States]


class Timing(NamedTuple):
    """Seconds of several runs of one program.

    Attributes:
      median: seconds of the median run.
      fastest: seconds of the fastest run.
      slowest: seconds of the slowest run.
    """

    median: float
    fastest: float
    slowest: float

    @property
    def spread(self) -> float:
        """Half the range of the runs' speeds, as a share of the median run's speed."""
        return self.median * (1 / self.fastest - 1 / self.slowest) / 2

    @property
    def note(self) -> str:
        """The spread, as the note of a record."""
        return f"runs took {self.fastest:.3g} s to {self.slowest:.3g} s"


class Timed(NamedTuple):
    """What is timed: `run(prepare())`, of which `prepare` is not."""

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


def clock(config: Config, phase: str, batch: int, length: int, target: str) -> Timing:
    """Runs the program of a phase on devices that are here and returns the seconds of a call.

    They are those of decoding one token of each row, for "decode".

    The arguments are those of a `ProgramSpec` with a present target.

    Raises:
      UserError: for an absent target and an unknown phase.
    """
    placement = place(target)
    if not placement.present:
        raise UserError(f"{target} is not here to run a program; give local")
    mesh = make_mesh(config.mesh, placement.devices())
    program = phase_program(config, phase, batch, length, mesh)
    timing = time_runs(*_PHASES[phase](config, program, batch, length, mesh))
    calls = DECODED if phase == "decode" else 1
    return Timing(*(seconds / calls for seconds in timing))


def time_runs(
    run: Callable[[Any], Any], prepare: Callable[[], Any] = lambda: None, *, repeats: int = REPEATS
) -> Timing:
    """Times `repeats` blocking runs, one after the other.

    Args:
      run: what is timed; it takes what `prepare` returns.
      prepare: makes the argument of one run; it is not timed.
      repeats: number of runs.
    """
    seconds = [run_seconds(run, prepare()) for _ in range(repeats)]
    return Timing(statistics.median(seconds), min(seconds), max(seconds))


def run_seconds(run: Callable[[Any], Any], given: Any = None) -> float:
    """Returns the wall-clock seconds of one blocking run.

    The result is freed after the clock is read: freeing 128 MiB of caches takes milliseconds.
    Memory that the run before held may still be going back to the system, in a thread of XLA's
    (0.4 s for 3.4 GB). A run that maps memory would wait for that, so memory is mapped first.

    Args:
      run: what is timed.
      given: its argument, which is waited for before the clock starts.
    """
    jax.block_until_ready(given)
    np.empty(MAPPED_BYTES, np.uint8)
    start = time.perf_counter()
    made = jax.block_until_ready(run(given))  # noqa: F841
    return time.perf_counter() - start


def steps(
    config: Config, mesh: Mesh, step: Callable, rows: Int[np.ndarray, "B T+1"], boundary: int
) -> Callable[[Any], TrainState]:
    """Returns a function that takes a train step, from where the one before ended.

    Args:
      config: resolved for the mesh.
      mesh: the devices.
      step: the program, compiled.
      rows: this process's tokens of every batch.
      boundary: the token that begins a document.
    """
    state = init_state(config, mesh, jax.random.key(config.seed.model))
    batch = put_batch(example_batch(rows, boundary, batch_layout(config)), mesh)

    def train(_: Any) -> TrainState:
        nonlocal state
        state = step(state, batch, hyper(config))[0]
        return state

    return train


def segments(
    prefill: Callable, model: LanguageModel, prompts: Int[np.ndarray, "B T"], segment: int
) -> Read:
    """Returns a function that reads the tokens from one place to another into donated states.

    Args:
      prefill: the program, or its compiled form (seqarch.costs.programs.prefill_program).
      model: one that serves.
      prompts: the tokens, padded to a multiple of the segment.
      segment: tokens that a call of the program takes.
    """
    rows = len(prompts)
    hidden = jnp.zeros((rows, model.embedding.shape[1]), model.dtype)

    def read(states: States, start: int, stop: int) -> States:
        for at in range(start, stop, segment):
            lengths = np.full(rows, min(segment, stop - at), np.int32)
            states = prefill(model, prompts[:, at : at + segment], states, lengths, hidden)[1]
        return states

    return read


def copies(tree: PyTree) -> PyTree:
    """Returns copies of arrays, which may be donated."""
    return jax.tree.map(jnp.copy, tree)


def _training(config: Config, program: Program, batch: int, length: int, mesh: Mesh) -> Timed:
    config = resolve(dataclasses.replace(config, batch=batch, length=length), mesh)
    rows = _tokens(config, batch, length + 1)
    return Timed(steps(config, mesh, program.compile(), rows, _boundary(config)))


def _prefill(config: Config, program: Program, batch: int, length: int, mesh: Mesh) -> Timed:
    """The last segment of each prompt, or all of each source."""
    reads, model = program.compile(), _served(config, program, mesh)
    if config.model.encodes:
        source = _tokens(config, batch, length)
        return Timed(lambda _: reads(model, source))
    segment = min(config.length, length)
    read, empty = _reader(config, program, reads, model, batch, length)
    before = read(empty, 0, length - segment)
    return Timed(lambda states: read(states, length - segment, length), lambda: copies(before))


def _decoding(config: Config, program: Program, batch: int, length: int, mesh: Mesh) -> Timed:
    """The last DECODED tokens of each row, or the first ones after each source."""
    decode, model = program.compile(), _served(config, program, mesh)
    reading = phase_program(config, "prefill", batch, length, mesh)
    reads = reading.compile()
    if config.model.encodes:
        states = reads(model, _tokens(config, batch, length))
    else:
        read, empty = _reader(config, reading, reads, model, batch, length)
        states = read(empty, 0, max(length - DECODED, 0))
    _, at, key = program.args
    start = Decoding(jnp.zeros(at.logits.shape), states, jnp.zeros(at.done.shape, bool))
    start, key = jax.device_put((start, jax.random.key(0)), _shardings((at, key)))
    return Timed(lambda at: decode(model, at, key)[1], lambda: copies(start))


_PHASES = {"train": _training, "prefill": _prefill, "decode": _decoding}


def _served(config: Config, program: Program, mesh: Mesh) -> LanguageModel:
    """Returns an initial model as the program takes it."""
    state = init_state(resolve(config, mesh), mesh, jax.random.key(0))
    return jax.device_put(state.model.serving(), _shardings(program.args[0]))


def _reader(
    config: Config, program: Program, reads: Compiled, model: LanguageModel, batch: int, length: int
) -> tuple[Read, States]:
    """Returns the function that reads prompts of `length` tokens, and states before the first."""
    segment = min(config.length, length)
    prompts = _tokens(config, batch, -(-length // segment) * segment)
    empty = jax.device_put(model.init_state(batch, length), _shardings(program.args[2]))
    return segments(reads, model, prompts, segment), empty


def _shardings(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def _tokens(config: Config, rows: int, length: int) -> Int[np.ndarray, "B T"]:
    """Returns random tokens, none of which begins a document."""
    tokens = np.random.default_rng(0).integers(1, config.model.vocab, (rows, length))
    return ((tokens + _boundary(config)) % config.model.vocab).astype(np.int32)


def _boundary(config: Config) -> int:
    """Returns the token that begins a document."""
    return config.model.boundary % config.model.vocab
