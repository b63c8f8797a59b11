"""Results of compiled programs: their source, their metrics and their records."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from seqarch.config import Config, to_dict
from seqarch.costs.search import Largest
from seqarch.costs.spec import Failed, Outcome, ProgramSpec, versions
from seqarch.evals.evaluator import Metric
from seqarch.provenance import provenance
from seqarch.records import Record, Source

EVALUATOR = "costs"  # of the records
FIELDS = (  # of a Measurement; bytes are those of each device
    Metric("parameters_bytes", "parameters", "bytes", "Bytes of parameters.", True),
    Metric("gradients_bytes", "gradients", "bytes", "Bytes of an array per parameter.", True),
    Metric("optimizer_bytes", "optimizer", "bytes", "Bytes of the optimizer's state.", True),
    Metric("state_bytes", "state", "bytes", "Bytes of the mixers' states and caches.", True),
    Metric("working_bytes", "working", "bytes", "Bytes of inputs, gradients, temporaries.", True),
    Metric("arguments_bytes", "arguments", "bytes", "Bytes of all arguments.", True),
    Metric("outputs_bytes", "outputs", "bytes", "Bytes of all outputs.", True),
    Metric("aliased_bytes", "aliased", "bytes", "Bytes of arguments that outputs overwrite."),
    Metric("temporaries_bytes", "temporaries", "bytes", "Bytes of temporaries.", True),
    Metric("flops", "FLOPs", "flops", "FLOPs of one call, or of one decoded token a row.", True),
)
METRICS = (
    *FIELDS,
    Metric("total_bytes", "total", "bytes", "Bytes of a program, as its note defines them.", True),
    Metric("device_bytes", "device", "bytes", "Bytes that a device has for programs.", False),
    Metric("exponent", "exponent", "ratio", "b of bytes ~ context^b, for what grows.", True),
    Metric("exponent_half", "half width", "ratio", "Half of the exponent's 95 % interval."),
    Metric("longest_context", "longest context", "count", "Tokens that fit a device.", False),
    Metric("sequences", "sequences", "count", "Sequences that are decoded at once.", False),
    Metric("planned_bytes", "planned", "bytes", "Bytes that the compiler planned for a step."),
    Metric("actual_bytes", "actual", "bytes", "Bytes of a training step that ran.", True),
    Metric("params", "parameters", "count", "Elements of all parameters."),
    Metric("largest_batch", "largest batch", "count", "Rows of the largest that fits.", False),
    Metric("batch_beyond", "batch beyond", "count", "Rows of a larger one that does not fit."),
    Metric("bound_tokens_per_s", "speed bound", "rate", "Tokens/s that a roofline allows.", False),
    Metric("million_tokens_cost", "cost bound", "price", "Least cost of 10^6 tokens.", True),
    # Of compiled programs (seqarch.costs.speed): one call, or one decoded token a row.
    Metric("bound_s", "time bound", "duration", "Seconds by a roofline, at least.", True),
    Metric("estimated_s", "time", "duration", "Seconds, estimated by the compiler.", True),
    Metric("estimated_tokens_per_s", "tokens/s", "rate", "Estimated by the compiler.", False),
    Metric("estimated_mfu", "MFU", "percent", "Share of peak, estimated by the compiler.", False),
    Metric("estimated_cost", "cost", "price", "Of 10^6 tokens, estimated by the compiler.", True),
    Metric("measured_s", "time", "duration", "Seconds, measured.", True),
    Metric("measured_tokens_per_s", "tokens/s", "rate", "Measured.", False),
    Metric("measured_mfu", "MFU", "percent", "Share of peak, measured.", False),
    Metric("measured_cost", "cost", "price", "Of 10^6 tokens, measured.", True),
    # Of models from outside, which are derived from a config (seqarch.costs.hf).
    Metric("params_around", "outside of layers", "count", "Elements outside of the layers."),
    Metric("positions", "positions", "count", "Tokens up to which a config says it reads."),
    Metric("layer_params", "parameters", "count", "Elements of each layer's parameters."),
    Metric("layer_token_bytes", "cache of a token", "bytes", "Bytes of a token's keys, values."),
    Metric("layer_constant_bytes", "constant state", "bytes", "Bytes of arrays of fixed size."),
    Metric("growing_bytes", "growing", "bytes", "Bytes of the caches that still grow.", True),
    Metric("constant_bytes", "constant", "bytes", "Bytes of the rest of the state.", True),
    Metric("unbounded_bytes", "without windows", "bytes", "Bytes if windows keep all.", True),
)


def program_source(name: str, config: Config) -> Source:
    """Returns the source of the programs of a config."""
    return Source(name, "program", to_dict(config), provenance=program_provenance())


@functools.cache
def program_provenance() -> dict[str, Any]:
    """Returns the revision, the command and the versions that records of costs are traced to."""
    made = provenance()
    kept = {name: made[name] for name in ("revision", "dirty", "command")}
    return kept | dict(versions=versions())


def place_of(spec: ProgramSpec) -> dict[str, Any]:
    """Returns what a program's records are measured at: target, phase, context and batch."""
    return dict(target=spec.target, phase=spec.phase, context=spec.length, batch=spec.batch)


def program_records(outcome: Outcome, at: Mapping[str, Any]) -> Iterator[Record]:
    """Yields the total of a program, whose status says whether it fits, and the FIELDS.

    `at` is what it was measured at (`place_of`).
    """
    if isinstance(outcome, Failed):
        yield Record(EVALUATOR, "total_bytes", at=at, status="failed", note=outcome.reason)
        return
    status = "ok" if outcome.fits else "oom"
    total, note = outcome.total, outcome.definition
    yield Record(EVALUATOR, "total_bytes", total, at, status=status, note=note)
    yield Record(EVALUATOR, "device_bytes", outcome.memory, at)
    for metric in FIELDS:
        if (value := getattr(outcome, metric.name.removesuffix("_bytes"))) is not None:
            yield Record(EVALUATOR, metric.name, value, at)


def largest_record(metric: str, at: Mapping[str, Any], fit: Largest) -> Record:
    """Returns the record of the largest size that fits; "over" if the search ended there."""
    return Record(EVALUATOR, metric, fit.size, at, status="ok" if fit.beyond else "over")
