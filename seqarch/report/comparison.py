"""The report of a comparison: what its members can do and cost, which differ, and where every
number comes from.
"""

import json
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqarch import tasks
from seqarch.config import flatten
from seqarch.evals import evaluator
from seqarch.evals.evaluator import EVALUATORS
from seqarch.records import Record, Results
from seqarch.report.figures import evaluator_figure, quality_against_state
from seqarch.report.formats import show
from seqarch.report.members import Comparison, Member, longest
from seqarch.report.style import Figure
from seqarch.report.tables import (
    NAME,
    Cells,
    Column,
    Table,
    evaluator_table,
    member_table,
    metric_cell,
)
from seqarch.stats.significance import Judgement, judge
from seqarch.tasks.base import Score


def comparison_tables(comparison: Comparison) -> list[Table]:
    """The tables that the members have records for; the first is the summary."""
    judged = significance(comparison.models)
    made = [
        summary(comparison, judged),
        differences(comparison, judged),
        learning_rates(comparison),
    ]
    for name in evaluators(comparison.members):
        entry = evaluator.find(name)
        made += [evaluator_table(spec, name, entry, comparison.members) for spec in entry.tables]
    return [table for table in [*made, models(comparison), provenance(comparison)] if table]


def comparison_figures(comparison: Comparison) -> list[Figure]:
    """The figures that the members have records for; the first is quality against state."""
    made = [quality_against_state(comparison)]
    for name in evaluators(comparison.models):
        entry = evaluator.find(name)
        made += [evaluator_figure(spec, name, entry, comparison.models) for spec in entry.figures]
    return [figure for figure in made if figure]


def evaluators(members: Sequence[Member]) -> list[str]:
    """Those that have measured any of the members, in the registry's order."""
    found = {name for member in members for each in member.results for name in each.evaluators}
    return [name for name in EVALUATORS if name in found]


def significance(models: Sequence[Member]) -> dict[str, Judgement]:
    """Judgements by documents that all models were scored on; none where seeds or documents are too
    few.
    """
    found = {member.name: [_documents(each) for each in member.results] for member in models}
    runs = {name: len(each) for name, each in found.items()}
    names = {tuple(record.at["document"]) for each in found.values() for record in each if record}
    if len(set(runs.values())) != 1 or len(names) != 1 or None in sum(found.values(), []):
        return {}
    scores = {name: np.array([record.value for record in each]) for name, each in found.items()}
    sizes = models[0].results[0].all("quality", "document_bytes")[0].value
    return judge(scores, np.array(sizes))


def _documents(results: Results) -> Record | None:
    """The bits per byte of each document."""
    found = results.all("quality", "document_bits_per_byte")
    return found[0] if found and found[0].value else None


def summary(comparison: Comparison, judged: dict[str, Judgement]) -> Table | None:
    """Quality and memory in the width of a terminal: memory and speed at the longest context that
    was measured.
    """
    members = comparison.members
    windows = sorted({at for member in members if (at := member.value("quality", "context"))})
    cells = [
        NAME,
        *score_cells(members),
        *([_letters(judged)] if judged else []),
        *_if_any(members, metric_cell("carried", "bits", "quality", "bits_per_byte_carried", {})),
        metric_cell("parameters", "count", "memory", "params", {}),
        *(
            metric_cell("state", "bytes", "memory", "state_bytes", {"context": each})
            for each in windows
        ),
        *_at_longest(members, "memory", "state_bytes"),
        *_at_longest(members, "memory", "train_bytes"),
        *_at_longest(members, "memory", "decode_bytes"),
        *_at_longest(members, "speed", "decode_tokens_per_s", "tokens/s"),
    ]
    titles = ", ".join(each.title for each in _scores(members)) or "Nothing"
    caption = (
        f"Held-out data: {titles}. Then the state of one sequence, and the memory of the compiled "
        "programs."
    )
    once = {each.column.title: each for each in cells}  # the window may be the longest context
    return member_table("At a glance", caption, members, list(once.values()))


def score_cells(members: Sequence[Member]) -> list[Cells]:
    """A column for what each of the members' tasks is scored by."""
    return [
        metric_cell(each.title, each.unit, each.evaluator, each.metric, {})
        for each in _scores(members)
    ]


def _scores(members: Sequence[Member]) -> list[Score]:
    texts = [member.config.get("task", "text") for member in members if member.kind == "run"]
    return list(dict.fromkeys(tasks.find(text).score for text in texts))


def _if_any(members: Sequence[Member], cells: Cells) -> list[Cells]:
    """The column, unless no member has a value in it."""
    return [cells] if any(cells.of(member) is not None for member in members) else []


def _at_longest(members: Sequence[Member], name: str, metric: str, title: str = "") -> list[Cells]:
    at, declared = longest(members, name, metric), evaluator.find(name).metric(metric)
    return (
        []
        if at is None
        else [metric_cell(title or declared.title, declared.unit, name, metric, at)]
    )


def _letters(judged: dict[str, Judgement]) -> Cells:
    return _judgement("not told apart", "text", judged, lambda found: found.letters)


def _judgement(title: str, unit: str, judged: dict[str, Judgement], of: Any) -> Cells:
    return Cells(
        Column(title, unit),
        lambda member: of(judged[member.name]) if member.name in judged else None,
    )


def differences(comparison: Comparison, judged: dict[str, Judgement]) -> Table | None:
    if not judged:
        return None
    return member_table(
        "Which differences are differences",
        "Means over seeds of initialisation and data order, on documents that nothing was "
        "chosen on. Behind the best: with "
        "its 95 % interval, from drawing documents and seeds with replacement, both paired "
        "between models. Models that share "
        "a letter were not told apart; each pair is judged on its own, without a correction for "
        "their number.",
        comparison.models,
        (
            NAME,
            metric_cell("bits/byte", "bits", "quality", "bits_per_byte", {}),
            _judgement("deviation over seeds", "bits", judged, lambda found: found.deviation),
            _letters(judged),
            _judgement("behind the best", "bits", judged, lambda found: found.behind.mean),
            _judgement("from", "bits", judged, lambda found: found.behind.low),
            _judgement("to", "bits", judged, lambda found: found.behind.high),
            Cells(Column("seeds"), _seeds),
        ),
    )


def _seeds(member: Member) -> str:
    return ", ".join(
        str(each.source.seeds["model"]) for each in member.results if each.source.seeds
    )


def learning_rates(comparison: Comparison) -> Table | None:
    """Scores by learning rate, of which the best was used."""
    found = [member.search for member in comparison.models if member.search]
    if not found:
        return None
    kind = _scores(comparison.models)[0]
    rates = sorted({record.at["lr"] for each in found for record in each.records})

    def score(lr: float) -> Cells:
        def value(member: Member) -> float | None:
            return member.search and member.search.value("search", kind.metric, lr=lr)

        return Cells(Column(f"{lr:g}", kind.unit), value)

    return member_table(
        "Learning rates",
        f"Validation after training with each learning rate ({kind.title}), from one seed; the "
        "best was used. The "
        "grid is the same for all, and goes on where its best value stood at an edge. A dash: "
        "not tried, or diverged.",
        comparison.models,
        (NAME, *map(score, rates)),
    )


def models(comparison: Comparison) -> Table | None:
    """What each model is; how they were matched."""

    def field(title: str, name: str, unit: str = "count") -> Cells:
        return Cells(Column(title, unit), lambda member: flatten(dict(member.config)).get(name))

    def ratio(member: Member) -> float | None:
        model = member.config.get("model", {})
        return model["mlp"] / model["dim"] if model.get("mlp") else None

    return member_table(
        "Models",
        (
            "Models have equal parameters by the width of their MLPs, or, where they have "
            "none, by their depth."
        ),
        comparison.models,
        (
            NAME,
            field("layers of", "model.mixer", "text"),
            metric_cell("parameters", "count", "memory", "params", {}),
            field("layers", "model.layers"),
            field("width", "model.dim"),
            field("MLP width", "model.mlp"),
            Cells(Column("MLP ratio", "ratio"), ratio),
            field("convolution", "model.conv"),
            field("learning rate", "optim.lr", "text"),
            Cells(Column("seeds"), _seeds),
        ),
    )


def provenance(comparison: Comparison) -> Table | None:
    """What makes each row again; settings that all models share stand in the caption."""
    settings = [flatten(dict(member.config)) for member in comparison.models if member.config]
    names = dict.fromkeys(name for flat in settings for name in flat)
    shared = {
        name: settings[0].get(name)
        for name in names
        if not name.startswith("seed.")
        and all(flat.get(name) == settings[0].get(name) for flat in settings)
    }
    text = ", ".join(f"{name}={json.dumps(value)}" for name, value in shared.items())
    return member_table(
        "Provenance",
        f"What makes each row again. Settings that all models share: {text or 'none'}.",
        comparison.members,
        (
            NAME,
            Cells(Column("split"), lambda member: member.results[0].source.split),
            Cells(Column("measured on"), _device),
            Cells(Column("git revision"), _revisions),
            Cells(Column("command", "code"), _command),
        ),
    )


def _revisions(member: Member) -> str:
    """Those that measured its runs, which may differ where a comparison was continued."""
    found = dict.fromkeys(each.source.revision for each in member.results)
    return ", ".join(show(each, "revision") for each in found)


def _device(member: Member) -> str:
    devices = member.results[0].source.provenance.get("devices") or {}
    return "{count} x {kind} ({platform})".format(**devices) if devices else ""


def _command(member: Member) -> str:
    made = member.results[0].source.provenance
    return made.get("again") or shlex.join(made.get("command", ()))
