"""What members of a comparison can do, from probes that are trained beside its text.

Each probe has a column, which shows the median over seeds and how many of them solved the task, and
tables of its own, which are those of a comparison on that task alone.
"""

import dataclasses

from seqarch.records import Results
from seqarch.report.formats import show
from seqarch.report.members import (
    LADDER,
    PROBE,
    PROBE_SEARCH,
    Comparison,
    Member,
    longest,
    mark,
    revisions,
)
from seqarch.report.origin_tables import pattern_cells, provenance_table, run_table
from seqarch.report.probe_rates import rate_table
from seqarch.report.probes import EVALUATOR, fit_table, outcome_of, outcomes
from seqarch.report.tables import NAME, Cells, Column, Table, member_table, metric_cell

NOT_RUN = "not run"
UNSOLVED = "not within this budget"
ABILITIES = "Probes: the median accuracy of the seeds, and how many of them solved the task."
SIZES = (
    "Models on probes have the layer pattern of the member and the size of the probe; their "
    "parameters are not matched."
)


def probe_comparisons(comparison: Comparison) -> list[Comparison]:
    """Returns for each probe, under its title, the members that got it, compared on it alone.

    The accuracy is the one that the probe reports: at the longest length beyond training, if it was
    measured there.
    """
    titles = dict.fromkeys(map(_title, comparison.probes))
    return [_probe_comparison(comparison, title) for title in titles]


def _title(results: Results) -> str:
    return str(results.fact(PROBE, "title"))


def _probe_comparison(comparison: Comparison, title: str) -> Comparison:
    runs: dict[str, list[Results]] = {}
    searches = {}
    for each in comparison.probes:
        if _title(each) == title and each.source.kind == PROBE_SEARCH:
            searches[each.source.member] = each
        elif _title(each) == title:
            runs.setdefault(each.source.member, []).append(_as_reported(each))
    known, members = revisions(comparison.results), []
    for name, found in runs.items():
        marked = mark(found, known)
        members.append(Member(name, "run", tuple(found), searches.get(name), marked))
    return Comparison(title, "", comparison.command, tuple(members))


def probe_members(comparison: Comparison) -> list[Member]:
    """Returns the members of all probes, with names such as "gru, recall"."""
    return [
        member._replace(name=f"{member.name}, {probe.title}")
        for probe in probe_comparisons(comparison)
        for member in probe.members
    ]


def _as_reported(results: Results) -> Results:
    """Returns results of a run whose accuracy is the one that its probe reports."""
    length = reported_length(results)
    found = results.find(EVALUATOR, "length_accuracy", context=length)
    if found is None:
        return results
    accuracy = dataclasses.replace(found, metric="accuracy", at={})
    others = (each for each in results.records if (each.metric, each.at) != ("accuracy", {}))
    return results._replace(records=(accuracy, *others))


def reported_length(results: Results) -> int | None:
    """Returns the length of rows at which a probe reports its accuracy."""
    trained = results.source.config.get("length")
    longer = [each.at["context"] for each in results.all(EVALUATOR, "length_accuracy")]
    return max([*longer, *([trained] if trained else [])], default=None)


def ability_cells(comparison: Comparison) -> list[Cells]:
    """Returns a column for each probe; none for members at several sizes, which no probe has."""
    if any(member.fact(LADDER, "member") for member in comparison.models):
        return []
    return [_ability_cell(probe) for probe in probe_comparisons(comparison)]


def _ability_cell(probe: Comparison) -> Cells:
    found = {each.name: each for each in probe.members}

    def shown(member: Member) -> str | None:
        if member.kind != "run":
            return None
        return ability_text(found[member.name]) if member.name in found else NOT_RUN

    return Cells(Column(probe.title), shown)


def ability_text(member: Member) -> str:
    """Returns what a member came to on a probe: its median accuracy and its fit rate.

    Such as "99.8%, 3 of 3", "99.8%, 1 seed", "61.0%, 0 of 3, not within this budget" or "not run".
    """
    if (found := outcome_of(member)) is None:
        return NOT_RUN
    solved, runs = found.rate.fits, found.rate.n
    median = "diverged" if found.median is None else show(found.median, "percent")
    count = "1 seed" if runs == 1 else f"{solved} of {runs}"
    return ", ".join([median, count, *([] if solved else [UNSOLVED])])


def size_table(probe: Comparison) -> Table | None:
    """Returns the size of each member's model on a probe, its state, and the steps of its runs."""
    parameters = metric_cell("parameters", "count", "memory", "params", {})
    cells = [NAME, parameters, *_state_cells(probe), Cells(Column("steps"), _steps)]
    return member_table("Models", SIZES, probe.members, cells)


def _state_cells(probe: Comparison) -> list[Cells]:
    """Returns columns of the state: where the probe reports, and at the longest context."""
    lengths = {reported_length(each) for member in probe.members for each in member.results}
    far = longest(probe.members, "memory", "state_bytes") or {}
    contexts = sorted({*lengths, far.get("context")} - {None})
    return [
        metric_cell("state", "bytes", "memory", "state_bytes", {"context": context})
        for context in contexts
    ]


def _steps(member: Member) -> str | None:
    """Returns the fewest and the most steps of a member's runs that were scored."""
    scored = [each.source.step for each in member.results if each.value(EVALUATOR, "accuracy")]
    ends = sorted({min(scored), max(scored)}) if scored else []
    return " to ".join(show(each, "count") for each in ends)


def ability_tables(comparison: Comparison) -> list[Table]:
    """Returns a table of all probes, and for each its fit rates and learning rates."""
    probes = probe_comparisons(comparison)
    names = dict.fromkeys(each.source.member for each in comparison.probes)
    if not probes:
        return []
    first = probes[0]
    models = {member.name: member for member in first.members}
    rows = [models.get(name, Member(name, "run", ())) for name in names]
    made = [
        member_table(
            "What each can do",
            "Median accuracy of the seeds on test rows, and how many of them solved the task. "
            f"No seed did: {UNSOLVED}; more steps may. The state of one sequence is that of the "
            f"model on {first.title}. {SIZES}",
            rows,
            [NAME, *pattern_cells(rows), *ability_cells(comparison), *_state_cells(first)],
        )
    ]
    for probe in probes:
        found = [size_table(probe), fit_table(probe, outcomes(probe.models)), rate_table(probe)]
        found += [provenance_table(probe), run_table(probe)]
        made += [each._replace(title=f"{each.title}: {probe.title}") for each in found if each]
    return [table for table in made if table]
