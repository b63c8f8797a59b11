"""The tables and figures of a comparison's report."""

from collections.abc import Sequence

import numpy as np

from seqarch.evals import evaluator
from seqarch.records import Record, Results
from seqarch.report.abilities import ABILITIES, ability_cells, ability_tables
from seqarch.report.ability_figure import ability_figure, far_figure
from seqarch.report.curves import curve_figures
from seqarch.report.figures import evaluator_figure, quality_against_state
from seqarch.report.frontier import frontier_tables
from seqarch.report.frontier_figure import frontier_figures
from seqarch.report.ladder import ladder_figure, ladder_table
from seqarch.report.lines import has_rates
from seqarch.report.matched import matching_table
from seqarch.report.members import Comparison, Member, evaluators, longest
from seqarch.report.missing import lacking
from seqarch.report.origin_tables import (
    learning_rate_table,
    model_table,
    pattern_cells,
    provenance_table,
    run_table,
    scores_of,
    seeds_of,
)
from seqarch.report.probes import (
    INTERVAL,
    MemberOutcome,
    fit_figure,
    fit_table,
    outcome_cells,
    outcomes,
)
from seqarch.report.style import Figure
from seqarch.report.sweeps import heat_maps, window_table
from seqarch.report.tables import (
    NAME,
    Cells,
    Column,
    Table,
    evaluator_table,
    found_cell,
    member_table,
    metric_cell,
)
from seqarch.stats.significance import Judgement, judge
from seqarch.tasks.base import ACCURACY

# How differences are judged (seqarch.stats.significance).
RESAMPLED = (
    "from drawing documents and seeds with replacement, both paired between models. Models that "
    "share a letter were not told apart; each pair is judged on its own, without a correction for "
    "their number."
)
CROSSED = (
    "the crossed t interval over seeds and documents, both paired between models, with "
    "min(seeds, documents) - 1 degrees of freedom; it is unadjusted for the number of models. "
    "Models that share a letter were not told apart, with Holm's correction over all pairs of "
    "models."
)


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Returns the tables that members have records for; the first is the summary."""
    judged, found = significance(comparison.models), outcomes(comparison.models)
    made = [
        summary_table(comparison, judged, found),
        *ability_tables(comparison),
        matching_table(comparison),
        ladder_table(comparison, judged),
        fit_table(comparison, found),
        window_table(comparison.models),
        *frontier_tables(comparison.results),
        difference_table(comparison, judged),
        learning_rate_table(comparison),
    ]
    for name in evaluators(comparison.members):
        specs = evaluator.find(name).tables
        made += [evaluator_table(spec, name, comparison.members) for spec in specs]
    made += [model_table(comparison), provenance_table(comparison), run_table(comparison)]
    return [table for table in made if table]


def comparison_figures(comparison: Comparison) -> list[Figure]:
    """Returns the figures that members have records for; the first one shows their scores."""
    made = [
        quality_against_state(comparison),
        ability_figure(comparison),
        far_figure(comparison),
        *heat_maps(comparison.models),
        ladder_figure(comparison),
        fit_figure(comparison, outcomes(comparison.models)),
        *frontier_figures(comparison.results),
        *curve_figures(comparison.models),
    ]
    for name in evaluators(comparison.models):
        specs = evaluator.find(name).figures
        made += [evaluator_figure(spec, name, comparison.models) for spec in specs]
    return [figure for figure in made if figure]


def significance(models: Sequence[Member]) -> dict[str, Judgement]:
    """Returns judgements of the models, from the documents that all of them were scored on.

    There are none where models differ in their documents or their number of seeds, where seeds or
    documents are too few, and of a sweep, whose learning rates are no models to be compared.
    """
    if has_rates(models):
        return {}
    found = {member.name: [_documents(each) for each in member.results] for member in models}
    runs = {name: len(each) for name, each in found.items()}
    names = {tuple(record.at["document"]) for each in found.values() for record in each if record}
    if len(set(runs.values())) != 1 or len(names) != 1 or None in sum(found.values(), []):
        return {}
    scores = {
        name: np.array([record.value for record in each], float) for name, each in found.items()
    }
    sizes = models[0].results[0].value("quality", "document_bytes", document=names.pop())
    return judge(scores, np.array(sizes, float)) if sizes else {}


def _documents(results: Results) -> Record | None:
    """Returns the record of the bits per byte of each document; None where there is none."""
    found = results.all("quality", "document_bits_per_byte")
    return found[0] if found and found[0].value else None


def summary_table(
    comparison: Comparison, judged: dict[str, Judgement], found: dict[str, MemberOutcome]
) -> Table | None:
    """Returns quality, memory and speed in the width of a terminal; None without members.

    Memory and speed are those at the longest context that was measured.

    Args:
      comparison: the members.
      judged: judgements of them (`significance`).
      found: outcomes of the seeds of probes, which stand in place of a mean accuracy.
    """
    members = comparison.members
    if not members:
        return None
    windows = sorted({at for member in members if (at := member.value("quality", "context"))})
    cells = [NAME, *pattern_cells(members), *_score_cells(members, found)]
    cells += [_letters(judged)] if judged else []
    cells += (abilities := ability_cells(comparison))
    carried = metric_cell("carried", "bits", "quality", "bits_per_byte_carried", {})
    cells += [carried] if any(carried.of(member) is not None for member in members) else []
    cells.append(metric_cell("parameters", "count", "memory", "params", {}))
    for window in windows:
        at = {"context": window}
        cells.append(metric_cell("state", "bytes", "memory", "state_bytes", at))
    cells += _at_longest(members, "memory", "state_bytes")
    cells += _at_longest(members, "memory", "train_bytes")
    cells += _at_longest(members, "memory", "decode_bytes")
    cells += _at_longest(members, "speed", "decode_tokens_per_s", "tokens/s")
    if any(map(lacking, members)):
        cells.append(Cells(Column("lacks"), lacking))
    titles = ", ".join(each.title for each in scores_of(members)) or "Nothing"
    caption = (
        f"Held-out data: {titles}. {f'{INTERVAL} ' if found else ''}"
        f"{f'{ABILITIES} ' if abilities else ''}Then the state of one "
        "sequence, and the memory of the compiled programs."
    )
    once = {each.column.title: each for each in cells}  # the window may be the longest context
    shown = [each for each in once.values() if any(each.of(it) not in (None, "") for it in members)]
    return member_table("At a glance", caption, members, shown)


def _score_cells(members: Sequence[Member], found: dict[str, MemberOutcome]) -> list[Cells]:
    """Returns columns for each metric that the members' tasks are scored by."""
    made = []
    for each in scores_of(members):
        if each == ACCURACY and found:
            made += outcome_cells(found)
        else:
            made.append(metric_cell(each.title, each.unit, each.evaluator, each.metric, {}))
    return made


def _at_longest(members: Sequence[Member], name: str, metric: str, title: str = "") -> list[Cells]:
    """Returns the column of a metric at the longest context; none where it was not measured."""
    at, declared = longest(members, name, metric), evaluator.find(name).metric(metric)
    if at is None:
        return []
    return [metric_cell(title or declared.title, declared.unit, name, metric, at)]


def _letters(judged: dict[str, Judgement]) -> Cells:
    return found_cell("not told apart", "text", judged, lambda found: found.letters)


def difference_table(comparison: Comparison, judged: dict[str, Judgement]) -> Table | None:
    """Returns the differences between models with their intervals; None without judgements."""
    if not judged:
        return None
    is_crossed = all(each.crossed for each in judged.values())
    return member_table(
        "Which differences are differences",
        "Means over seeds of initialisation and data order, on documents that nothing was chosen "
        f"on. Behind the best: with its 95 % interval, {CROSSED if is_crossed else RESAMPLED}",
        comparison.models,
        (
            NAME,
            metric_cell("bits/byte", "bits", "quality", "bits_per_byte", {}),
            found_cell("deviation over seeds", "bits", judged, lambda found: found.deviation),
            _letters(judged),
            found_cell("behind the best", "bits", judged, lambda found: found.behind.mean),
            found_cell("from", "bits", judged, lambda found: found.behind.low),
            found_cell("to", "bits", judged, lambda found: found.behind.high),
            Cells(Column("seeds"), seeds_of),
        ),
    )
