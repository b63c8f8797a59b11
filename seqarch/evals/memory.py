"""Bytes of a trained run: parameters, optimizer, state of one sequence, and compiled programs."""

import dataclasses
from collections.abc import Iterator, Sequence

from seqarch.config import Config
from seqarch.costs.compiler import compiled_bytes, definition
from seqarch.costs.memory import elements, state_size, tree_bytes
from seqarch.costs.programs import decoding_room, programs, serving_model
from seqarch.errors import UserError
from seqarch.evals.evaluator import BY_CONTEXT, Evaluator, FigureSpec, Metric, TableSpec
from seqarch.evals.loaded_run import LoadedRun
from seqarch.records import Fact, Record
from seqarch.training.sharded_step import abstract_state

CONTEXTS = (1024, 16384, 1048576)  # tokens
COMPILED = (256, 1024, 4096)  # tokens


def check(config: Config, contexts: Sequence[int] = (), compiled: Sequence[int] = ()) -> None:
    """Raises UserError for a context without tokens."""
    for option, lengths in dict(contexts=contexts, compiled=compiled).items():
        if 0 in lengths:
            raise UserError(f"evals.memory.{option} has 0; give contexts of at least 1 token")


def evaluate(
    run: LoadedRun, *, contexts: Sequence[int] = CONTEXTS, compiled: Sequence[int] = COMPILED
) -> Iterator[Record | Fact]:
    """Yields elements and bytes; a program that does not fit the device has no value.

    Args:
      run: the run to measure.
      contexts: tokens after which the state of one sequence is measured; of an encoder-decoder,
        those of its source.
      compiled: tokens of context for which the train step, prefill and decoding are compiled.
    """
    config, mesh = run.config, run.mesh
    state = abstract_state(config, mesh)
    yield Record("memory", "params", elements(state.model))
    yield Record("memory", "params_bytes", tree_bytes(state.model))
    yield Record("memory", "optimizer_bytes", tree_bytes(state.opt_state))
    yield from _states(run, contexts)
    for context in compiled:
        for phase, program in programs(config, run.serving, mesh, context).items():
            name, at = f"{phase}_bytes", {"context": context}
            with run.skipping(f"{phase} at a context of {context} tokens") as skipped:
                yield Record("memory", name, compiled_bytes(run.planned(program)).total, at)
            if skipped:
                yield Record("memory", name, at=at, status="oom", note=skipped[0])
    platform = mesh.devices.flat[0].platform
    text = (
        f"Bytes are {definition(platform)}, of one device, compiled for {platform}: training of "
        f"{config.batch} rows on {mesh.size} device(s); "
    )
    if config.model.encodes:
        text += "prefill is the encoding of one source of so many tokens, which decoding reads."
    else:
        text += f"prefill, in segments of {config.length} tokens, and decoding of one sequence."
    yield Fact("memory", "definition", text)


def _states(run: LoadedRun, contexts: Sequence[int]) -> Iterator[Record | Fact]:
    """Yields sizes of one sequence's state, in the run's dtype and in bfloat16.

    Caches follow the dtype; recurrent states do not.
    """
    config = run.config
    half = serving_model(dataclasses.replace(config.model, dtype="bfloat16"))
    room = decoding_room(config, config.length)
    yield Fact("memory", "state_dtype", state_size(run.serving, **room).dtypes)
    yield Fact("memory", "state_dtype_bfloat16", state_size(half, **room).dtypes)
    if config.model.encodes:
        target = f"The tokens are those of the source; a target has up to {room['max_len']}."
        yield Fact("memory", "source", target)
    for context in sorted({*contexts, config.length}):
        room, at = decoding_room(config, context), {"context": context}
        size = state_size(run.serving, **room)
        yield Record("memory", "state_elements", size.elements, at)
        yield Record("memory", "state_bytes", size.bytes, at)
        yield Record("memory", "state_bytes_bfloat16", state_size(half, **room).bytes, at)


def _bytes(name: str, title: str, help: str) -> Metric:
    return Metric(name, title, "bytes", help, lower=True, at=BY_CONTEXT)


def _curve(phase: str, title: str) -> FigureSpec:
    caption = (
        f"Bytes of the compiled {title} against the context; the memory table says which bytes."
    )
    question = f"How does the memory of the {title} grow?"
    return FigureSpec(f"memory-{phase}", question, caption, f"{phase}_bytes", "context")


EVALUATOR = Evaluator(
    evaluate,
    metrics=(
        Metric("params", "parameters", "count", "Elements of all parameters."),
        Metric("params_bytes", "parameters", "bytes", "Bytes of all parameters.", True),
        Metric("optimizer_bytes", "optimizer", "bytes", "Bytes of the optimizer's state.", True),
        Metric(
            "state_elements",
            title="state elements",
            unit="count",
            help="Elements of one sequence's state.",
            lower=True,
            at=BY_CONTEXT,
        ),
        _bytes("state_bytes", "state", "Bytes of one sequence's state."),
        _bytes(
            "state_bytes_bfloat16",
            "state in bfloat16",
            "Bytes of one sequence's state where the model computes in bfloat16.",
        ),
        _bytes("train_bytes", "training", "Bytes of the compiled train step."),
        _bytes(
            "prefill_bytes",
            "prefill",
            "Bytes of the prefill of a segment of one sequence's prompt.",
        ),
        _bytes("decode_bytes", "decoding", "Bytes of the decoding loop of one sequence."),
    ),
    tables=(
        TableSpec(
            "Parameters and state",
            "Bytes of parameters and optimizer, and the state that decoding one sequence keeps "
            "after so many tokens: as measured here, and of the same model computing in bfloat16, "
            "which keys and values follow and recurrent states do not.",
            (
                "params_bytes",
                "optimizer_bytes",
                "state_elements",
                "state_bytes",
                "state_bytes_bfloat16",
            ),
            facts=("source",),
            texts={"state_dtype": "state dtype", "state_dtype_bfloat16": "dtype in bfloat16"},
        ),
        TableSpec(
            "Memory of the compiled programs",
            "Bytes at each context.",
            ("train_bytes", "prefill_bytes", "decode_bytes"),
            facts=("definition",),
        ),
    ),
    figures=(
        _curve("train", "training step"),
        _curve("prefill", "prefill"),
        _curve("decode", "decoding step"),
    ),
    check=check,
)
