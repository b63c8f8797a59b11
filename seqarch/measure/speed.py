"""Tokens per second of training, prefill and decoding: medians of runs that were waited for, compilation apart.

Prefill and decoding are of one sequence. Decoding at a context of L tokens is that of its last DECODED ones, after a
real prefill of those before: a cache is as full, and a state as used, as it would be.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.data.loader import Batch
from seqarch.generate import Decoding
from seqarch.measure.programs import DECODED, decode_loop_program, prefill_program, train_program
from seqarch.measure.subject import Subject
from seqarch.training.sharding import init_state, put_batch
from seqarch.training.state import TrainState, hyper
from seqarch.types import Int, PyTree, State

REPEATS = 3
MAPPED = 64 << 20  # bytes, more than malloc ever takes from its heap
States = tuple[State, ...]


def evaluate(subject: Subject) -> Iterator[tuple[str, Any]]:
    """speed/*: a program that does not fit the device has no value."""
    config = subject.config
    program = train_program(config, subject.mesh)
    with subject.skipping("the train step"):
        yield "speed/compile_s", subject.compile_seconds(program)
        seconds = _train_seconds(subject)
        yield "speed/train_batch", config.batch
        yield "speed/train_tokens_per_s", config.batch * config.length / seconds
    for context in config.eval.speed_contexts:
        with subject.skipping(f"a context of {context} tokens"):
            prefill, decode = _serving_seconds(subject, context)
            yield f"speed/prefill_tokens_per_s@{context}", context / prefill
            yield f"speed/decode_tokens_per_s@{context}", DECODED / decode


def _train_seconds(subject: Subject) -> float:
    """Of one step from the initial state, with rows of the held-out text."""
    config, mesh = subject.config, subject.mesh
    step = subject.compiled(train_program(config, mesh))
    state = init_state(config, mesh, jax.random.key(config.seed.model))
    rows = _text(subject, config.batch // jax.process_count(), config.length + 1)
    inputs = rows[:, :-1]
    batch = put_batch(Batch(inputs, rows[:, 1:], inputs == subject.split.boundary, np.ones(inputs.shape, np.float32)), mesh)

    def run(_: None) -> TrainState:
        nonlocal state
        state = step(state, batch, hyper(config))[0]
        return state

    return median_seconds(run)


def _serving_seconds(subject: Subject, context: int) -> tuple[float, float]:
    """Of reading `context` tokens, and of the last DECODED ones decoded."""
    model, segment = subject.serving, min(subject.config.length, context)
    prefill = subject.compiled(prefill_program(model, 1, segment, context))
    decode = subject.compiled(decode_loop_program(model, 1, context))
    prompt = _text(subject, 1, math.ceil(context / segment) * segment)
    empty, key = model.init_state(1, context), jax.random.key(0)
    dim, vocab = model.head.shape
    hidden = jnp.zeros((1, dim), model.dtype)

    def read(states: States, size: int = context) -> States:
        for start in range(0, size, segment):
            lengths = np.array([min(segment, size - start)], np.int32)
            states = prefill(model, prompt[:, start : start + segment], states, lengths, hidden)[1]
        return states

    near = Decoding(jnp.zeros((1, vocab)), read(_copy(empty), context - DECODED), jnp.zeros(1, bool))
    return (
        median_seconds(read, lambda: _copy(empty)),
        median_seconds(lambda at: decode(model, at, key)[1], lambda: _copy(near)),
    )


def _text(subject: Subject, rows: int, length: int) -> Int[np.ndarray, "B T"]:
    """The beginning of the held-out text, again and again where it is shorter."""
    return np.resize(subject.split.tokens[: rows * length], (rows, length)).astype(np.int32)


def _copy(tree: PyTree) -> PyTree:
    """Arrays that may be donated."""
    return jax.tree.map(jnp.copy, tree)


def median_seconds(run: Callable[[Any], Any], prepare: Callable[[], Any] = lambda: None, *, repeats: int = REPEATS) -> float:
    """Of `repeats` runs, each given what `prepare` makes, which is not timed."""
    return statistics.median(run_seconds(run, prepare()) for _ in range(repeats))


def run_seconds(run: Callable[[Any], Any], given: Any = None) -> float:
    """Of one run, waited for. What it makes is freed after the clock is read: of 128 MiB of caches that takes milliseconds.

    What the run before it held may still be going back to the system, in a thread of XLA's: 0.4 s for 3.4 GB. A run that maps
    memory would wait for that, so memory is mapped first.
    """
    jax.block_until_ready(given)
    np.empty(MAPPED, np.uint8)
    start = time.perf_counter()
    made = jax.block_until_ready(run(given))  # noqa: F841
    return time.perf_counter() - start
