"""Tables that say how models and runs were made, and where each number comes from."""

import json
import shlex
from collections.abc import Sequence

from seqarch import tasks
from seqarch.config import flatten
from seqarch.evals.evaluator import SECONDS, TRAINING
from seqarch.records import Results
from seqarch.report.formats import show
from seqarch.report.lines import line_name
from seqarch.report.members import Comparison, Member, results_of
from seqarch.report.missing import lacking
from seqarch.report.tables import NAME, Cells, Column, Row, Table, member_table, metric_cell
from seqarch.runtime.progress import duration
from seqarch.tasks.base import Score

COSTS = {  # what columns of the table of models mean
    "state": "State: bytes of one sequence of the length of training.",
    "FLOPs": "FLOPs: model FLOPs of training on a token.",
}
MATCHING = "comparison"  # whose fact "match" says how a member was matched
MATCHED = {
    "params": "A comparison gives its models equal parameters by the width of their MLPs, or, "
    "where they have none, by their depth.",
    "state": "The comparison gives its models equal states, by the option that sizes the state of "
    "a mixer, or else by the width of the model.",
    "flops": "The comparison trains its models at equal FLOPs a token, by their width.",
}


def scores_of(members: Sequence[Member]) -> list[Score]:
    """Returns what the tasks of the members are scored by."""
    texts = [member.config.get("task", "text") for member in members if member.kind == "run"]
    return list(dict.fromkeys(tasks.find(text).score for text in texts))


def learning_rate_table(comparison: Comparison) -> Table | None:
    """Returns scores by learning rate; None where no learning rate was chosen."""
    found = [member.search for member in comparison.models if member.search]
    if not found:
        return None
    kind = scores_of(comparison.models)[0]
    searched = (record for each in found for record in each.all("search", kind.metric))
    rates = sorted({record.at["lr"] for record in searched})

    def score(lr: float) -> Cells:
        def value(member: Member) -> float | None:
            return member.search and member.search.value("search", kind.metric, lr=lr)

        return Cells(Column(f"{lr:g}", kind.unit), value)

    return member_table(
        "Learning rates",
        f"Validation after training with each learning rate ({kind.title}), from one seed; the "
        "best was used. The grid is the same for all, and goes on where its best value stood at an "
        "edge. A dash: not tried, or diverged.",
        comparison.models,
        (NAME, *map(score, rates)),
    )


def model_table(comparison: Comparison) -> Table | None:
    """Returns what each model is and how models were matched."""

    def field(title: str, name: str, unit: str = "count") -> Cells:
        return Cells(Column(title, unit), lambda member: flatten(member.config).get(name))

    def ratio(member: Member) -> float | None:
        model = member.config.get("model", {})
        return model["mlp"] / model["dim"] if model.get("mlp") and model.get("dim") else None

    def state(member: Member) -> float | None:
        return member.value("memory", "state_bytes", context=member.config.get("length"))

    costs = [
        metric_cell("parameters", "count", "memory", "params", {}),
        Cells(Column("state", "bytes"), state),
        metric_cell("FLOPs", "flops", "flops", "train_per_token", {}),
    ]
    measured = [each for each in costs if any(map(each.of, comparison.models))]
    notes = [note for each in measured if (note := COSTS.get(each.column.title))]
    return member_table(
        "Models",
        " ".join(["What each model is.", _matched(comparison.models), *notes]),
        comparison.models,
        (
            NAME,
            Cells(Column("layers of"), layers_of),
            *measured,
            field("layers", "model.layers"),
            field("width", "model.dim"),
            field("MLP width", "model.mlp"),
            Cells(Column("MLP ratio", "ratio"), ratio),
            field("convolution", "model.conv"),
            field("learning rate", "optim.lr", "text"),
            Cells(Column("seeds"), seeds_of),
        ),
    )


def _matched(models: Sequence[Member]) -> str:
    """Returns how a comparison matched its models, as a sentence."""
    found = {member.fact(MATCHING, "match") for member in models} - {None}
    return " ".join(MATCHED[each] for each in sorted(found)) or MATCHED["params"]


def provenance_table(comparison: Comparison) -> Table | None:
    """Returns where each row comes from; settings that all models share stand in the caption."""
    settings = [flatten(member.config) for member in comparison.models if member.config]
    names = dict.fromkeys(name for flat in settings for name in flat)
    shared = {}
    for name in names:
        value = settings[0].get(name)
        if not name.startswith("seed.") and all(flat.get(name) == value for flat in settings):
            shared[name] = value
    text = ", ".join(f"{name}={json.dumps(value)}" for name, value in shared.items())
    return member_table(
        "Provenance",
        "Where each row comes from, with the fields that a config had at that revision. Settings "
        f"that all models share: {text or 'none'}.",
        comparison.members,
        (
            NAME,
            Cells(Column("split"), lambda member: member.results[0].source.split),
            Cells(Column("measured on"), _device),
            Cells(Column("git revision"), _revisions),
        ),
    )


def run_table(comparison: Comparison) -> Table | None:
    """Returns what came of each run, and the command that makes it again; folded in a page."""
    if not comparison.members:
        return None
    scores, rows = scores_of(comparison.members), []
    for member in comparison.members:
        for each in member.results:
            seeds = ", ".join(f"{name} {seed}" for name, seed in each.source.seeds.items())
            shown = [each.value(score.evaluator, score.metric) for score in scores]
            lacks = lacking(member._replace(results=(each,)))
            revision = each.source.revision if each.source.provenance else None
            name = NAME.of(member)
            rows.append(Row((name, seeds, *shown, lacks, revision, _command(each)), member.kind))
    columns = [Column("model"), Column("seeds")]
    columns += [Column(score.title, score.unit) for score in scores]
    columns += [Column("lacks"), Column("git revision", "revision"), Column("command", "code")]
    kept = [index for index in range(len(columns)) if any(row.cells[index] for row in rows)]
    rows = [Row(tuple(row.cells[index] for index in kept), row.kind) for row in rows]
    caption = f"Each run, with the command that trains and measures it again.{_spent(comparison)}"
    titles = tuple(columns[index] for index in kept)
    return Table("Runs", caption, titles, tuple(rows), folded=True)


def _spent(comparison: Comparison) -> str:
    """Returns how long runs were trained, as a sentence after others; "" where it is unknown."""
    times = [each.fact(TRAINING, SECONDS) for each in results_of(comparison.models)]
    known = [seconds for seconds in times if seconds is not None]
    if not known:
        return ""
    which = "All" if len(known) == len(times) else f"{len(known)} of {len(times)}"
    return f" {which} took {duration(sum(known))} of training, one after the other."


def _revisions(member: Member) -> str:
    """Returns the revisions that measured its runs; a comparison that was continued has several."""
    found = dict.fromkeys(each.source.revision for each in member.results)
    return ", ".join(show(each, "revision") for each in found)


def _device(member: Member) -> str:
    devices = member.results[0].source.provenance.get("devices") or {}
    return "{count} x {kind} ({platform})".format(**devices) if devices else ""


def _command(results: Results) -> str:
    made = results.source.provenance
    return made.get("again") or shlex.join(made.get("command", ()))


def pattern_of(member: Member) -> str:
    """Returns the layer pattern of a member; "" of a baseline."""
    return member.config.get("model", {}).get("mixer", "")


def pattern_cells(members: Sequence[Member]) -> list[Cells]:
    """Returns the column of layer patterns; none where every model is named after its own."""
    models = [member for member in members if pattern_of(member)]
    if all(line_name(member) == pattern_of(member) for member in models):
        return []
    return [Cells(Column("layers of"), layers_of)]


def layers_of(member: Member) -> str:
    """Returns the layer pattern, of an encoder-decoder also what it encodes with and reads by.

    Such as "gru", "attention(causal=False) to gru", or "gru to gru by summary".
    """
    model = member.config.get("model", {})
    if not model.get("encoder"):
        return pattern_of(member)
    source = model.get("source", "attention")
    by = "" if source == "attention" else f" by {source}"
    return f"{model['encoder']} to {pattern_of(member)}{by}"


def seeds_of(member: Member) -> str:
    """Returns the seeds of a member's runs."""
    sources = (each.source for each in member.results)
    return ", ".join(str(each.seeds["model"]) for each in sources if "model" in each.seeds)
