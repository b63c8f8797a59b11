"""Tokens per second of training, prefill and decoding: medians of runs that were waited for,
compilation apart.

Prefill and decoding are of one sequence. Decoding at a context of L tokens is that of its last
DECODED ones, after a
real prefill of those before: a cache is as full, and a state as used, as it would be.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.config import resolve
from seqarch.costs.programs import DECODED, decode_loop_program, prefill_program, train_program
from seqarch.errors import UserError
from seqarch.evals.evaluator import Evaluator, FigureSpec, Metric, TableSpec
from seqarch.evals.loaded_run import LoadedRun
from seqarch.generate import Decoding
from seqarch.records import Record
from seqarch.tasks.base import Batch
from seqarch.training.sharding import init_state, put_batch
from seqarch.training.state import TrainState, hyper
from seqarch.types import Int, PyTree, State

REPEATS = 3
SHORTEST = 2 * DECODED  # tokens of a context
MAPPED = 64 << 20  # bytes, more than malloc ever takes from its heap
States = tuple[State, ...]


def evaluate(run: LoadedRun, *, contexts: Sequence[int] = (256, 1024, 4096)) -> Iterator[Record]:
    """Yields tokens per second; a program that does not fit the device has no value.

    contexts: at which prefill and decoding are timed; at least DECODED + 1 tokens
    """
    if short := [context for context in contexts if context < SHORTEST]:
        raise UserError(
            f"evals.speed.contexts has {short[0]}; give contexts of at least {SHORTEST} tokens"
        )
    config = run.config
    with run.skipping("the train step") as skipped:
        yield Record(
            "speed", "compile_seconds", run.compile_seconds(train_program(config, run.mesh))
        )
        tokens = config.batch * config.length
        yield Record("speed", "train_tokens_per_s", tokens / _train_seconds(run), n=REPEATS)
    yield from _absent(skipped, ("train_tokens_per_s",), {})
    for context in contexts:
        at = {"context": context}
        with run.skipping(f"a context of {context} tokens") as skipped:
            prefill, decode = _serving_seconds(run, context)
            yield Record("speed", "prefill_tokens_per_s", context / prefill, at, n=REPEATS)
            yield Record("speed", "decode_tokens_per_s", DECODED / decode, at, n=REPEATS)
        yield from _absent(skipped, ("prefill_tokens_per_s", "decode_tokens_per_s"), at)


def _absent(
    skipped: Sequence[str], metrics: Sequence[str], at: Mapping[str, Any]
) -> Iterator[Record]:
    """Records without a value for what did not fit the device."""
    for note in skipped:
        for metric in metrics:
            yield Record("speed", metric, at=at, status="oom", note=note)


def _train_seconds(run: LoadedRun) -> float:
    """Of one step from the initial state, with rows of the held-out data."""
    config, mesh = resolve(run.config, run.mesh), run.mesh
    step = run.compiled(train_program(config, mesh))
    state = init_state(config, mesh, jax.random.key(config.seed.model))
    rows = _text(run, config.batch // jax.process_count(), config.length + 1)
    inputs = rows[:, :-1]
    batch = put_batch(
        Batch(inputs, rows[:, 1:], inputs == run.split.boundary, np.ones(inputs.shape, np.float32)),
        mesh,
    )

    def train(_: None) -> TrainState:
        nonlocal state
        state = step(state, batch, hyper(config))[0]
        return state

    return median_seconds(train)


def _serving_seconds(run: LoadedRun, context: int) -> tuple[float, float]:
    """Of reading `context` tokens, and of the last DECODED ones decoded."""
    model, segment = run.serving, min(run.config.length, context)
    prefill = run.compiled(prefill_program(model, 1, segment, context))
    decode = run.compiled(decode_loop_program(model, 1, context))
    prompt = _text(run, 1, math.ceil(context / segment) * segment)
    empty, key = model.init_state(1, context), jax.random.key(0)
    dim, vocab = model.head.shape
    hidden = jnp.zeros((1, dim), model.dtype)

    def read(states: States, size: int = context) -> States:
        for start in range(0, size, segment):
            lengths = np.array([min(segment, size - start)], np.int32)
            states = prefill(model, prompt[:, start : start + segment], states, lengths, hidden)[1]
        return states

    near = Decoding(
        jnp.zeros((1, vocab)), read(_copy(empty), context - DECODED), jnp.zeros(1, bool)
    )
    return (
        median_seconds(read, lambda: _copy(empty)),
        median_seconds(lambda at: decode(model, at, key)[1], lambda: _copy(near)),
    )


def _text(run: LoadedRun, rows: int, length: int) -> Int[np.ndarray, "B T"]:
    """The beginning of the held-out data, again and again where it is shorter."""
    return np.resize(run.split.tokens[: rows * length], (rows, length)).astype(np.int32)


def _copy(tree: PyTree) -> PyTree:
    """Arrays that may be donated."""
    return jax.tree.map(jnp.copy, tree)


def median_seconds(
    run: Callable[[Any], Any], prepare: Callable[[], Any] = lambda: None, *, repeats: int = REPEATS
) -> float:
    """Of `repeats` runs, each given what `prepare` makes, which is not timed."""
    return statistics.median(run_seconds(run, prepare()) for _ in range(repeats))


def run_seconds(run: Callable[[Any], Any], given: Any = None) -> float:
    """Of one run, waited for. What it makes is freed after the clock is read: of 128 MiB of caches
    that takes milliseconds.

    What the run before it held may still be going back to the system, in a thread of XLA's: 0.4 s
    for 3.4 GB. A run that maps memory would wait for that, so memory is mapped first.
    """
    jax.block_until_ready(given)
    np.empty(MAPPED, np.uint8)
    start = time.perf_counter()
    made = jax.block_until_ready(run(given))  # noqa: F841
    return time.perf_counter() - start


EVALUATOR = Evaluator(
    evaluate,
    metrics=(
        Metric(
            "compile_seconds",
            "compilation, training",
            "seconds",
            "Compiling the train step, with tracing.",
            True,
        ),
        Metric(
            "train_tokens_per_s", "training", "rate", "Tokens per second of the train step.", False
        ),
        Metric(
            "prefill_tokens_per_s",
            "prefill",
            "rate",
            "Of reading one prompt of so many tokens.",
            False,
        ),
        Metric(
            "decode_tokens_per_s",
            "decoding",
            "rate",
            "Of one sequence, after a real prefill.",
            False,
        ),
    ),
    tables=(
        TableSpec(
            "Speed",
            "Tokens per second, compilation apart; decoding after a real prefill of so many "
            "tokens.",
            (
                "train_tokens_per_s",
                "prefill_tokens_per_s",
                "decode_tokens_per_s",
                "compile_seconds",
            ),
        ),
    ),
    figures=(
        FigureSpec(
            "decode-speed",
            "How fast is a token decoded?",
            "Tokens per second of one sequence, decoding after a real prefill of that many "
            "tokens. Higher is better.",
            "decode_tokens_per_s",
            over="context",
        ),
    ),
)
