"""What a model from outside needs, as records: parameters, state by context, sequences that fit."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from seqarch.costs.devices import Placement
from seqarch.costs.hf.layers import OutsideModel
from seqarch.costs.limits import MAX_SEQUENCES
from seqarch.costs.results import EVALUATOR, program_provenance
from seqarch.records import Fact, Record, Source


def outside_source(model: OutsideModel, path: Path) -> Source:
    """Returns the source of the records of a model, which a digest of its config identifies."""
    read = dict(name=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    return Source(model.name, "outside", {"hf": read}, provenance=program_provenance())


def outside_records(
    model: OutsideModel, contexts: Sequence[int], placement: Placement | None
) -> Iterator[Record | Fact]:
    """Yields what a model needs, layer by layer and in all.

    Args:
      model: the model.
      contexts: tokens of a sequence at which its state is counted.
      placement: devices on which sequences are counted; None: they are not.
    """
    yield from _model(model)
    yield from _layers(model)
    for context in contexts:
        yield from _state(model, context)
    if placement:
        yield from _fit(model, contexts, placement)


def _model(model: OutsideModel) -> Iterator[Record | Fact]:
    yield Record(EVALUATOR, "params", model.params)
    yield Record(EVALUATOR, "parameters_bytes", model.parameters_bytes)
    yield Record(EVALUATOR, "params_around", model.around)
    if model.positions is not None:
        yield Record(EVALUATOR, "positions", model.positions)
    dtypes = {each.dtype for layer in model.layers for each in layer.states} - {""}
    packed = " and mxfp4" if any(layer.mxfp4 for layer in model.layers) else ""
    yield Fact(EVALUATOR, "dtype", model.dtype)
    yield Fact(EVALUATOR, "weights_dtype", model.dtype + packed)
    yield Fact(EVALUATOR, "state_dtypes", sorted(dtypes))
    yield Fact(EVALUATOR, "notes", list(model.notes))


def _layers(model: OutsideModel) -> Iterator[Record | Fact]:
    at = dict(layer=list(range(len(model.layers))))
    columns = {
        "layer_params": [layer.params for layer in model.layers],
        "layer_token_bytes": [model.bytes_of(layer.cache) for layer in model.layers],
        "layer_constant_bytes": [model.constant_bytes(layer) for layer in model.layers],
    }
    for name, values in columns.items():
        yield Record(EVALUATOR, name, values, at)
    yield Fact(EVALUATOR, "layer_kinds", [layer.kind for layer in model.layers])
    yield Fact(EVALUATOR, "layer_windows", [layer.window for layer in model.layers])


def _state(model: OutsideModel, context: int) -> Iterator[Record]:
    """Yields the bytes of one sequence; a note says where the config sets the context a bound."""
    at, beyond = dict(context=context), model.positions is not None and context > model.positions
    note = f"beyond the {model.positions:,} positions of the config" if beyond else ""
    total, growing = model.state_bytes(context), model.growing_bytes(context)
    yield Record(EVALUATOR, "state_bytes", total, at, note=note)
    yield Record(EVALUATOR, "growing_bytes", growing, at)
    yield Record(EVALUATOR, "constant_bytes", total - growing, at)
    yield Record(EVALUATOR, "unbounded_bytes", model.unbounded_bytes(context), at)


def _fit(
    model: OutsideModel, contexts: Sequence[int], placement: Placement
) -> Iterator[Record | Fact]:
    """Yields how many sequences fit beside the parameters, both split evenly over the chips."""
    memory, weights = _memory(placement), model.parameters_bytes
    yield Fact(EVALUATOR, "target", placement.name)
    yield Fact(EVALUATOR, "memory_source", placement.target.source)
    yield Record(EVALUATOR, "device_bytes", memory, dict(target=placement.name))
    for context in contexts:
        room, each = max(memory - weights, 0), model.state_bytes(context)
        most = min(room // each if each else MAX_SEQUENCES, MAX_SEQUENCES)
        at = dict(target=placement.name, context=context)
        status = "over" if most == MAX_SEQUENCES else "ok"
        yield Record(EVALUATOR, "sequences", most, at, status=status)


def _memory(placement: Placement) -> int:
    """Returns the bytes of all devices: the data sheet's, or else those that this machine has."""
    if placement.target.memory is not None:
        return placement.target.memory * placement.chips
    return sum(placement.memory(device) for device in placement.devices())
