"""What a report compares, and in what its models are equal."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from seqarch.config import flatten
from seqarch.records import measured_fields
from seqarch.report.formats import show
from seqarch.report.members import Comparison, Member, longest, results_of
from seqarch.report.tables import Column, Row, Table, metric_cell

EQUAL = 1.05  # ratio of the most to the least up to which models count as matched


def matching_table(comparison: Comparison) -> Table | None:
    """Returns the least and the most of what models need, and in what they differ; None for one.

    Whether models are matched is read from what was measured, not from what was intended.
    """
    models = comparison.models
    if len(models) < 2:
        return None
    rows, matched = [], []
    for title, unit, of in _quantities(models):
        values = [value for member in models if (value := of(member)) is not None]
        if len(values) < 2 or min(values) <= 0:
            continue
        low, high = min(values), max(values)
        lacking = len(models) - len(values)
        name = f"{title} ({lacking} not measured)" if lacking else title
        rows.append(Row((name, show(low, unit), show(high, unit), high / low)))
        if high / low <= EQUAL and not lacking:
            matched.append(title)
    if not rows:
        return None
    columns = (Column("quantity"), Column("least", "size"), Column("most", "size"))
    caption = f"{_what(comparison)} {_said(matched)}"
    return Table("What is compared", caption, (*columns, Column("ratio", "rate")), tuple(rows))


def _quantities(models: Sequence[Member]) -> list[tuple[str, str, Callable[[Member], Any]]]:
    """Returns title, unit and value of what models may be matched in."""
    found = [("parameters", "count", metric_cell("", "count", "memory", "params", {}).of)]
    if at := longest(models, "memory", "state_bytes"):
        title = f"state at {at['context']:,} tokens"
        found.append((title, "bytes", metric_cell("", "bytes", "memory", "state_bytes", at).of))
    flops = metric_cell("", "flops", "flops", "train_per_token", {}).of
    found.append(("training FLOPs a token", "flops", flops))
    found.append(("tokens of training", "flops", trained_tokens))
    return found


def trained_tokens(member: Member) -> int | None:
    """Returns the tokens of the longest of a member's runs; one may end when it has solved."""
    steps = [step for each in member.results if (step := each.source.step)]
    sizes = [max(steps, default=None), *(member.config.get(name) for name in ("batch", "length"))]
    return None if None in sizes else sizes[0] * sizes[1] * sizes[2]


def _said(matched: Sequence[str]) -> str:
    return f"Equal within {EQUAL - 1:.0%}: {', '.join(matched) or 'none of these'}."


def _what(comparison: Comparison) -> str:
    """Returns how many models and runs there are, on which tasks, and what differs between them."""
    runs = [each.source for each in results_of(comparison.models)]
    names = dict.fromkeys(source.config.get("task", "text") for source in runs)
    settings = [flatten(measured_fields(source.config, ("eval", "evals"))) for source in runs]
    fields = dict.fromkeys(name for each in settings for name in each)
    differing = [name for name in fields if len({_text(each, name) for each in settings}) > 1]
    differ = f" They differ in {', '.join(differing)}." if differing else ""
    return f"{len(comparison.models)} members, {len(runs)} runs on {', '.join(names)}.{differ}"


def _text(fields: dict[str, Any], name: str) -> str:
    return json.dumps(fields.get(name), sort_keys=True)
