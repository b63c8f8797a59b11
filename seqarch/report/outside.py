"""What a model from outside needs, as lines and tables.

The records are those of seqarch.costs.hf.plan.
"""

from collections.abc import Iterator, Sequence

from seqarch.costs.results import EVALUATOR
from seqarch.records import Results
from seqarch.report.formats import format_bytes, format_found, format_si
from seqarch.report.tables import Column, Row, Table

RANGES = 6  # of layers that a row names; of more it names the first and the last


def outside_heading(results: Results) -> str:
    """Returns the line that says which model it is and what its parameters take."""
    params, size = (results.value(EVALUATOR, name) for name in ("params", "parameters_bytes"))
    return (
        f"{results.source.member}: {format_si(params)} parameters ({params:,}), "
        f"{format_bytes(size)} in {results.fact(EVALUATOR, 'weights_dtype')}"
    )


def outside_tables(results: Results) -> Iterator[Table]:
    """Yields the layers by kind, and the state of one sequence by context."""
    yield _layers_table(results)
    yield _state_table(results)


def outside_notes(results: Results) -> Iterator[str]:
    """Yields how the numbers came about, and what they leave out."""
    dtype, others = (results.fact(EVALUATOR, name) for name in ("dtype", "state_dtypes"))
    kept = f"keys, values and convolutions in {dtype}"
    if others:
        kept += f", recurrent states in {' and '.join(others)}"
    yield (
        f"Derived from the config by formulas, neither compiled nor measured: {kept}, as "
        "transformers keeps them. Activations and what an engine sets aside come on top."
    )
    if _has_windows(results):
        yield (
            "Without windows: bytes if an engine keeps all tokens in the layers with a window too, "
            "as some do in models that mix both."
        )
    if target := results.fact(EVALUATOR, "target"):
        (memory,) = results.all(EVALUATOR, "device_bytes", target=target)
        source = results.fact(EVALUATOR, "memory_source") or "this machine"
        yield (
            f"Sequences: those whose states fit {format_bytes(memory.value)} of {target} beside "
            f"the parameters, if chips share both evenly. Memory is that of {source}."
        )
        if results.value(EVALUATOR, "parameters_bytes") > memory.value:
            yield "The parameters alone do not fit."
    yield from results.fact(EVALUATOR, "notes")


def _layers_table(results: Results) -> Table:
    kinds = results.fact(EVALUATOR, "layer_kinds")
    names = "layer_params", "layer_token_bytes", "layer_constant_bytes"
    found = [results.all(EVALUATOR, name)[0].value for name in names]
    groups: dict[tuple, list[int]] = {}
    for index, each in enumerate(zip(kinds, *found, strict=True)):
        groups.setdefault(each, []).append(index)
    rows = []
    for (kind, *each), layers in groups.items():
        rows.append(Row((kind, len(layers), ranges(layers), *each)))
    around = results.value(EVALUATOR, "params_around")
    rows.append(Row(("embeddings, head, last norm", None, None, around, None, None)))
    columns = (
        Column("layers"),
        Column("number", "count"),
        Column("which"),
        Column("parameters of each", "count"),
        Column("cache of a token, bytes", "count"),
        Column("constant state, bytes", "count"),
    )
    return Table("Layers", "", columns, tuple(rows))


def _state_table(results: Results) -> Table:
    target, windows = results.fact(EVALUATOR, "target"), _has_windows(results)
    columns = [Column("context"), Column("constant", "bytes"), Column("growing", "bytes")]
    columns.append(Column("one sequence", "bytes"))
    columns += [Column("without windows", "bytes")] * windows
    columns += [Column(f"sequences on {target}")] * bool(target)
    rows = []
    for total in results.all(EVALUATOR, "state_bytes"):
        context = total.at["context"]
        cells = [f"{context:,}" + (f" ({total.note})" if total.note else "")]
        names = ["constant_bytes", "growing_bytes", "state_bytes", *["unbounded_bytes"] * windows]
        cells += [results.value(EVALUATOR, name, context=context) for name in names]
        if target:
            most = results.find(EVALUATOR, "sequences", target=target, context=context)
            cells.append(format_found(most))
        rows.append(Row(tuple(cells)))
    return Table("State of one sequence", "", tuple(columns), tuple(rows))


def _has_windows(results: Results) -> bool:
    """Returns whether a window leaves tokens out at any of the contexts."""
    return any(
        results.value(EVALUATOR, "unbounded_bytes", **total.at) != total.value
        for total in results.all(EVALUATOR, "state_bytes")
    )


def ranges(layers: Sequence[int]) -> str:
    """Returns rising numbers as ranges, such as "0-2, 4-6"; the middle of many is left out."""
    found: list[list[int]] = []
    for layer in layers:
        if found and layer == found[-1][-1] + 1:
            found[-1].append(layer)
        else:
            found.append([layer])
    shown = [str(each[0]) if len(each) == 1 else f"{each[0]}-{each[-1]}" for each in found]
    if len(shown) > RANGES:
        shown[RANGES - 2 : -1] = ["..."]
    return ", ".join(shown)
