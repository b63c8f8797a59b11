"""How many bytes of state a task needs: the tables of a frontier.

The records are those of seqarch.evals.frontier, beside those of the runs that they are made from.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from seqarch.config import flatten
from seqarch.evals import frontier
from seqarch.evals.frontier_runs import is_sweep, model_of, read_points, size_name
from seqarch.records import Results
from seqarch.report.formats import LESS, format_bytes, show
from seqarch.report.tables import Column, Row, Table
from seqarch.stats.frontier import choose_runs
from seqarch.stats.law import TERMS, Estimate

ALONE = "Learning rates were chosen by the runs that are shown, which flatters them."
FRESH = "Where several learning rates were tried, runs of another seed chose."


def frontier_tables(results: Sequence[Results]) -> list[Table]:
    """Returns the smallest states and the accuracy at each state; none of runs of no sweep."""
    if not is_sweep(results):
        return []
    return [smallest_table(frontier.frontiers(results)), accuracy_table(results)]


def smallest_table(found: Sequence[Results]) -> Table:
    """Returns the smallest state that is enough, of each mixer and for each size of the task."""
    setting = setting_of(found[0])
    name, reached = setting["size"], setting["reached"]
    sizes = sorted({size for each in found for size in setting_of(each)["sizes"]})
    rows = []
    for each in found:
        states = [_smallest(each, {name: size}) for size in sizes]
        rows.append(Row((each.source.member, *states)))
    caption = (
        f"The smallest state with which the median accuracy reaches {show(reached, 'percent')}, in "
        f"bytes of one sequence, by {name}. >: not even the largest state that was tried is "
        f"enough within this budget. {LESS.strip()}: no smaller one was tried. "
        f"{_choice(found)}"
    )
    columns = (Column("mixer"), *(Column(f"{name} {size:g}", "size") for size in sizes))
    return Table("The smallest state that recalls", caption, columns, tuple(rows))


def _smallest(results: Results, at: Mapping[str, float]) -> str | None:
    record = results.find(frontier.NAME, "smallest_state", **at)
    if record is None:
        return None
    sign = "> " if record.status == "over" else LESS if record.note else ""
    return sign + format_bytes(record.value)


def law_table(found: Sequence[Results]) -> Table | None:
    """Returns the coefficients of each law with their intervals; None where there is none."""
    laws = {each.source.member: law for each in found if (law := frontier.read_law(each))}
    if not laws:
        return None
    setting = setting_of(found[0])
    name, reached = setting["size"], setting["reached"]
    by_mixer = {each.source.member: setting_of(each) for each in found}
    sizes = sorted({size for mixer in laws for size in by_mixer[mixer]["sizes"]})
    rows = []
    for mixer, law in laws.items():
        terms = (interval(law.coefficient(term), "ratio") for term in TERMS)
        needed = (interval(law.state(size, 1 - reached), "bytes") for size in sizes)
        rows.append(Row((mixer, by_mixer[mixer]["reported"], *terms, *needed)))
    terms = ("a", "b, state doubled", f"c, {name} doubled")
    columns = [Column("mixer"), Column("runs", "count"), *(Column(each, "size") for each in terms)]
    columns += [Column(f"state for {name} {size:g}", "size") for size in sizes]
    caption = (
        f"log(e / (1 - e)) = a + b log2(state) + c log2({name}), with e the share of wrong "
        "answers, fitted to all runs that count. In brackets: 95 % intervals from drawing runs "
        "with replacement. The last columns are the bytes at which the law reaches "
        f"{show(reached, 'percent')} right answers, an extrapolation where they lie outside the "
        "states that were tried."
    )
    return Table("The law of errors", caption, tuple(columns), tuple(rows))


def interval(estimate: Estimate | None, unit: str) -> str | None:
    """Returns "1.5 KiB [1.2 KiB, 2 KiB]"; None where there is no estimate."""
    if estimate is None:
        return None
    value, low, high = (_end(each, unit) for each in estimate)
    return f"{value} [{low}, {high}]"


def _end(value: float, unit: str) -> str:
    return show(value, unit) if math.isfinite(value) else "\N{INFINITY}"


def accuracy_table(results: Sequence[Results]) -> Table:
    """Returns the median accuracy of each model for each size of the task, by mixer and state."""
    cells: dict[tuple[str, int, str], dict[float, float]] = {}
    runs = {}
    for each in choose_runs(read_points(results)):
        first = each.points[0]
        key = first.mixer, first.state, first.model
        cells.setdefault(key, {})[first.size] = each.median
    for each in results:
        if each.source.kind == "run":
            config = flatten(each.source.config)
            runs.setdefault(model_of(each), (config["model.mixer"], config["model.dim"]))
    sizes = sorted({size for found in cells.values() for size in found})
    rows = []
    for (_, state, model), found in sorted(cells.items()):
        values = (found.get(size) for size in sizes)
        shown = (each if each is None or math.isfinite(each) else 0.0 for each in values)
        rows.append(Row((*runs[model], state, *shown)))
    name = size_name(results)
    columns = [Column("layers of"), Column("width", "count"), Column("state", "bytes")]
    columns += [Column(f"{name} {size:g}", "percent") for size in sizes]
    caption = (
        f"Median accuracy of the runs that count, by {name}; a diverged run counts as 0. State: "
        "bytes of one sequence at the length of the rows."
    )
    return Table("Accuracy at each state", caption, tuple(columns), tuple(rows))


def setting_of(results: Results) -> Mapping[str, Any]:
    return results.source.facts[frontier.NAME]


def _choice(found: Sequence[Results]) -> str:
    return FRESH if all(setting_of(each)["fresh"] for each in found) else ALONE
