"""How often a probe's answers are right.

Accuracy is measured at all scored positions, by the distance to the evidence, at lengths beyond
training, and at other sizes of the task. A position counts as right where the right answer is the
model's most likely token. Beside it stands the accuracy of the best trivial rule on the same rows
(`seqarch.tasks.trivial`). Every table says whether its rows are disjoint from those of training.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from seqarch.config import Config
from seqarch.errors import UserError
from seqarch.evals.answers import Answers, answers
from seqarch.evals.evaluator import BY_CONTEXT, Evaluator, FigureSpec, Metric, TableSpec
from seqarch.evals.loaded_run import LoadedRun
from seqarch.records import Fact, Record
from seqarch.tasks import make_task
from seqarch.tasks.base import ACCURACY
from seqarch.tasks.probe import SMALLEST_DOMAIN_BITS, Probe
from seqarch.tasks.trivial import trivial_accuracy

NAME = "accuracy"


def variants(
    probe: Probe, lengths: Sequence[int], sizes: Sequence[float]
) -> tuple[dict[int, Probe], dict[float, Probe]]:
    """Returns the probe at other lengths, and at other sizes.

    Raises:
      UserError: for a length or a size that the task cannot have.
    """
    longer = {length: probe.varied(length=length) for length in lengths}
    return longer, {size: probe.varied(**{probe.size: size}) for size in sizes}


def check(
    config: Config, rows: int = 1, lengths: Sequence[int] = (), sizes: Sequence[float] = ()
) -> None:
    """Raises UserError for no rows, and for a length or a size that the task cannot have."""
    if rows < 1:
        raise UserError(f"evals.accuracy.rows is {rows}; give at least 1")
    variants(make_task(config), lengths, sizes)


def evaluate(
    run: LoadedRun, *, rows: int = 512, lengths: Sequence[int] = (), sizes: Sequence[float] = ()
) -> Iterator[Record | Fact]:
    """Yields accuracies, each with the number of its positions, and what they compare with.

    Args:
      run: the run to measure.
      rows: rows of the held-out split, for each accuracy.
      lengths: further lengths of rows; of longer ones, the positions beyond training are scored, if
        rows have any.
      sizes: further values of the option that makes the task harder (`Probe.size`).
    """
    probe = run.task
    longer, harder = variants(probe, lengths, sizes)
    found = answers(run, probe, rows)
    yield from _accuracies("", found, {})
    yield Record(NAME, "exact", found.exact, n=rows)
    yield Record(NAME, "solved", probe.solved)
    yield Record(NAME, "chance", probe.chance)
    shared = float(probe.in_every_split(found.rows.tokens).mean())
    yield Record(NAME, "in_every_split", shared, n=rows)
    yield Fact(NAME, "held_out", held_out(probe, shared, longer, harder))
    yield from by_distance(probe, found)
    for length, each in longer.items():
        trained = each.source_columns + probe.length - probe.source_columns
        found = answers(run, each, rows).beyond(trained if length > probe.length else 0)
        if found.positions:
            yield from _accuracies("length_", found, {"context": length})
    for size, each in harder.items():
        yield from _accuracies("size_", answers(run, each, rows), {probe.size: size})


def _accuracies(prefix: str, found: Answers, at: Mapping[str, float]) -> Iterator[Record]:
    """Yields the accuracy of the model and that of the best trivial rule."""
    n, trivial = found.positions, trivial_accuracy(found.rows)
    yield Record(NAME, f"{prefix}accuracy", found.accuracy, at, n=n)
    yield Record(NAME, f"{prefix}trivial_accuracy", trivial, at, n=n)


def held_out(
    probe: Probe, shared: float, longer: Mapping[int, Probe], harder: Mapping[float, Probe]
) -> str:
    """Returns whether held-out rows are disjoint from those of training, as a sentence.

    Args:
      probe: the task.
      shared: the share of its rows that are in every split.
      longer: the task at other lengths.
      harder: the task at other sizes.
    """
    if not probe.disjoint:
        return (
            "Held-out rows are not disjoint from training: the task has a fixed table, or too few "
            "different rows."
        )
    found = [f"length {key}" for key, each in longer.items() if not each.disjoint]
    found += [f"{probe.size} {key}" for key, each in harder.items() if not each.disjoint]
    kinds = []
    if shared:
        few = f"fewer than 2^{SMALLEST_DOMAIN_BITS} different rows"
        kinds.append(f"kinds of which there are {few}, and which are in every split")
    if found:
        kinds.append(f"those at {' and '.join(found)}, which are too few")
    exempt = f", but for {' and for '.join(kinds)}" if kinds else ""
    return f"Held-out rows are disjoint from training{exempt}."


def by_distance(probe: Probe, found: Answers) -> Iterator[Record]:
    """Yields accuracy by the distance to the evidence, in bins up to 1, 2, 4, ... tokens."""
    distances, scored = probe.distances(found.rows.tokens), found.rows.scored
    if distances is None:
        return
    bins = np.ceil(np.log2(np.maximum(distances, 1))).astype(int)
    for each in np.unique(bins[scored]):
        member = scored & (bins == each)
        value = float(found.right[member].mean())
        at = {"distance": 2 ** int(each)}
        yield Record(NAME, "distance_accuracy", value, at, n=int(member.sum()))


BY_SIZE = {"*": int | float}  # by the option that makes the task harder
HELD_OUT = ("held_out",)  # the fact with which every caption ends
TRIVIAL = (
    "Trivial rule: the best, on the same rows, of the commonest target and the row's first, last "
    "and commonest token so far that is a target in any row."
)


def _accuracy(name: str, help: str, at: Mapping[str, Any]) -> Metric:
    return Metric(name, "accuracy", "percent", help, False, at)


def _trivial(name: str, where: str, at: Mapping[str, Any]) -> Metric:
    help = f"Accuracy of the best trivial rule{where}, on the same rows."
    return Metric(name, "trivial rule", "percent", help, at=at)


EVALUATOR = Evaluator(
    evaluate,
    metrics=(
        _accuracy("accuracy", "Share of scored positions with the right answer.", {}),
        Metric("exact", "rows all right", "percent", "Share of rows without an error.", False),
        Metric("solved", "solved from", "percent", "Accuracy from which a task counts as solved."),
        Metric("chance", "chance", "percent", "Accuracy of guessing among all answers."),
        _trivial("trivial_accuracy", "", {}),
        Metric(
            "in_every_split",
            title="in every split",
            unit="percent",
            help="Share of rows that may be trained on, as there are too few different ones.",
        ),
        _accuracy(
            "distance_accuracy",
            "Accuracy by the distance of the evidence, in tokens.",
            {"distance": int},
        ),
        _accuracy(
            "length_accuracy", "Accuracy at other lengths, beyond that of training.", BY_CONTEXT
        ),
        _trivial("length_trivial_accuracy", " at other lengths", BY_CONTEXT),
        _accuracy(
            "size_accuracy", "Accuracy at other sizes of the task than that of training.", BY_SIZE
        ),
        _trivial("size_trivial_accuracy", " at other sizes of the task", BY_SIZE),
    ),
    tables=(
        TableSpec(
            "Accuracy",
            "Share of scored positions of held-out rows whose right answer is the most likely "
            f"token. Chance: guessing among all answers. {TRIVIAL}",
            ("accuracy", "trivial_accuracy", "chance", "exact", "solved", "in_every_split"),
            facts=HELD_OUT,
        ),
        TableSpec(
            "Accuracy by distance",
            "By the tokens from the beginning of the evidence to a scored position: up to so many, "
            "and more than half as many.",
            ("distance_accuracy",),
            facts=HELD_OUT,
        ),
        TableSpec(
            "Accuracy by length",
            "At other lengths of rows; of longer rows, at positions beyond the length of training. "
            f"{TRIVIAL}",
            ("length_accuracy", "length_trivial_accuracy"),
            facts=HELD_OUT,
        ),
        TableSpec(
            "Accuracy by size",
            f"At other sizes of the task. {TRIVIAL}",
            ("size_accuracy", "size_trivial_accuracy"),
            facts=HELD_OUT,
        ),
    ),
    figures=(
        FigureSpec(
            "accuracy-by-distance",
            "How far back is an answer found?",
            "Accuracy by the distance between a scored position and its answer, in tokens.",
            "distance_accuracy",
            over="distance",
            log=False,
        ),
        FigureSpec(
            "accuracy-by-length",
            "Does it hold beyond the length of training?",
            "Accuracy at other lengths of rows.",
            "length_accuracy",
            over="context",
            log=False,
        ),
    ),
    over_seeds=True,
    score=ACCURACY.metric,
    check=check,
)
