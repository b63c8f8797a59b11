"""Measures tokens per second of training, prefill and decoding, and the time of compilation.

Each speed is the median of several blocking runs, without compilation. Prefill and decoding are of
one sequence. Decoding at a context of L tokens means its last DECODED tokens, after a real prefill
of those before, so that caches are as full and states as used as in a real run.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Compiled

from seqarch.config import Config, resolve
from seqarch.costs.clock import REPEATS, Timing, copies, segments, steps, time_runs
from seqarch.costs.programs import (
    DECODED,
    decode_loop_program,
    decoding_room,
    encode_program,
    prefill_program,
    train_program,
)
from seqarch.decoding import Decoding
from seqarch.errors import UserError
from seqarch.evals.evaluator import BY_CONTEXT, Evaluator, FigureSpec, Metric, TableSpec
from seqarch.evals.loaded_run import LoadedRun
from seqarch.model import LanguageModel
from seqarch.records import Record, tag
from seqarch.types import Int, State

BUSY = 1.5  # ratio of the slowest run to the median above which the machine counts as busy
MIN_CONTEXT = 2 * DECODED  # tokens


def check(config: Config, contexts: Sequence[int] = ()) -> None:
    """Raises UserError where a context is shorter than MIN_CONTEXT tokens."""
    if short := [context for context in contexts if context < MIN_CONTEXT]:
        raise UserError(
            f"evals.speed.contexts has {short[0]}; give contexts of at least {MIN_CONTEXT} tokens"
        )


def evaluate(run: LoadedRun, *, contexts: Sequence[int] = (256, 1024, 4096)) -> Iterator[Record]:
    """Yields tokens per second; a program that does not fit the device has no value.

    Args:
      run: the run to measure.
      contexts: tokens of context at which prefill and decoding are timed.
    """
    config = run.config
    with run.skipping("the train step") as skipped:
        seconds = run.compile_seconds(train_program(config, run.mesh))
        yield Record("speed", "compile_seconds", seconds)
        tokens = config.batch * config.length
        yield from _speed(run, "train", tokens, _time_training(run), {})
    yield from _absent(skipped, ("train_tokens_per_s",), {})
    for context in contexts:
        at = {"context": context}
        with run.skipping(f"a context of {context} tokens") as skipped:
            prefill, decode = _time_serving(run, context)
            yield from _speed(run, "prefill", context, prefill, at)
            yield from _speed(run, "decode", DECODED, decode, at)
        yield from _absent(skipped, ("prefill_tokens_per_s", "decode_tokens_per_s"), at)


def _speed(
    run: LoadedRun, phase: str, tokens: int, timing: Timing, at: Mapping[str, Any]
) -> Iterator[Record]:
    """Yields the speed of a phase and its spread, and warns where the runs differ much."""
    metric, speed = f"{phase}_tokens_per_s", tokens / timing.median
    record = Record("speed", metric, speed, at, n=REPEATS, note=timing.note)
    if timing.slowest > BUSY * timing.median:
        run.say(f"the machine is busy: {tag(record)}: {timing.note}")
    yield record
    yield Record("speed", f"{phase}_spread", timing.spread, at, n=REPEATS)


def _absent(
    skipped: Sequence[str], metrics: Sequence[str], at: Mapping[str, Any]
) -> Iterator[Record]:
    """Yields records without a value for what did not fit the device."""
    for note in skipped:
        for metric in metrics:
            yield Record("speed", metric, at=at, status="oom", note=note)


def _time_training(run: LoadedRun) -> Timing:
    """Times steps from the initial state, on rows of the held-out data."""
    config, mesh = resolve(run.config, run.mesh), run.mesh
    step = run.compiled(train_program(config, mesh))
    rows = _text(run, config.batch // jax.process_count(), config.length + 1)
    return time_runs(steps(config, mesh, step, rows, run.split.boundary))


def _time_serving(run: LoadedRun, context: int) -> tuple[Timing, Timing]:
    """Times the prefill of `context` tokens, and the decoding of the last DECODED of them."""
    if run.config.model.encodes:
        return _time_translation(run, context)
    model, segment = run.serving, min(run.config.length, context)
    prefill = run.compiled(prefill_program(model, 1, segment, context))
    decode = run.compiled(decode_loop_program(model, 1, context))
    prompt = _text(run, 1, math.ceil(context / segment) * segment)
    empty, read = model.init_state(1, context), segments(prefill, model, prompt, segment)
    filled = read(copies(empty), 0, context - DECODED)
    reading = time_runs(lambda states: read(states, 0, context), lambda: copies(empty))
    return reading, _time_decoding(model, decode, filled)


def _time_translation(run: LoadedRun, context: int) -> tuple[Timing, Timing]:
    """Times the encoding of a source of `context` tokens, and the first DECODED tokens after it."""
    model, room = run.serving, decoding_room(run.config, context)
    encode = run.compiled(encode_program(model, 1, **room))
    decode = run.compiled(decode_loop_program(model, 1, **room))
    source = _text(run, 1, context)
    encoding = time_runs(lambda _: encode(model, source))
    return encoding, _time_decoding(model, decode, encode(model, source))


def _time_decoding(model: LanguageModel, decode: Compiled, states: tuple[State, ...]) -> Timing:
    """Times the decoding of DECODED tokens from the states of one sequence."""
    start = Decoding(jnp.zeros((1, model.embedding.shape[0])), states, jnp.zeros(1, bool))
    key = jax.random.key(0)
    return time_runs(lambda at: decode(model, at, key)[1], lambda: copies(start))


def _text(run: LoadedRun, rows: int, length: int) -> Int[np.ndarray, "B T"]:
    """Returns the beginning of the held-out data, repeated where it is shorter."""
    return np.resize(run.split.tokens[: rows * length], (rows, length)).astype(np.int32)


def _speed_metrics(
    phase: str, title: str, help: str, at: Mapping[str, Any]
) -> tuple[Metric, Metric]:
    """Returns the metrics of a phase: its speed, and the spread of that."""
    spread = f"{phase}_spread"
    spread_help = "Half the range of the runs' speeds, as a share of their median."
    return (
        Metric(f"{phase}_tokens_per_s", title, "rate", help, lower=False, at=at, spread=spread),
        Metric(spread, "spread", "percent", spread_help, lower=True, at=at),
    )


EVALUATOR = Evaluator(
    evaluate,
    metrics=(
        Metric(
            "compile_seconds",
            title="compilation, training",
            unit="seconds",
            help="Seconds in which the train step is traced and compiled.",
            lower=True,
        ),
        *_speed_metrics("train", "training", "Tokens per second of the train step.", {}),
        *_speed_metrics(
            "prefill", "prefill", "Tokens per second of the prefill of one prompt.", BY_CONTEXT
        ),
        *_speed_metrics(
            "decode",
            "decoding",
            "Tokens per second of decoding one sequence, after a real prefill.",
            BY_CONTEXT,
        ),
    ),
    tables=(
        TableSpec(
            "Speed",
            "Tokens per second, compilation apart; decoding after a real prefill of so many "
            f"tokens. The median of {REPEATS} runs, with half their range where it was recorded.",
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
    check=check,
)
