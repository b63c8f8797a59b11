"""What a task needs of a state: records of a sweep over states and sizes of the task.

found = frontiers(results)          # of the runs of configs/sweeps/frontier.py
law = read_law(found[0])
law.state(8, 1 - REACHED)           # bytes of state for 8 pairs
"""

from collections.abc import Iterator, Sequence

import numpy as np

from seqarch.config import flatten
from seqarch.evals.evaluator import Metric
from seqarch.evals.frontier_runs import mixer_of, read_points, shared_config, size_of, task_without
from seqarch.records import Record, Results, Source
from seqarch.stats.frontier import REACHED, Point, Reported, choose_runs, smallest_states
from seqarch.stats.law import TERMS, Law, fit_law

NAME = "frontier"  # of the records' evaluator, and the kind of their sources
KEPT = {  # what a frontier's file keeps of each run, by evaluator
    "accuracy": ("accuracy", "trivial_accuracy", "chance", "solved"),
    "memory": ("params", "state_bytes"),
    "flops": ("train_per_token",),
}

METRICS = (
    Metric(
        "smallest_state",
        title="smallest state",
        unit="bytes",
        help="Bytes of the smallest state whose median accuracy reaches the threshold.",
        lower=True,
        at={"*": int | float},
    ),
    Metric(
        "coefficient",
        title="coefficient",
        unit="ratio",
        help="A coefficient of the law log-odds(error) = a + b log2(state) + c log2(size).",
        at={"term": str},
    ),
    Metric(
        "coefficient_draws",
        title="draws",
        unit="ratio",
        help="The coefficients of each draw of the bootstrap over runs.",
        at={"draw": [int], "term": [str]},
    ),
)


def frontiers(results: Sequence[Results]) -> list[Results]:
    """Returns the smallest states and the fitted law of each mixer in a sweep, as records.

    Raises:
      UserError: where the runs are not those of one setting, or lack a measurement.
    """
    points = read_points(results)
    made = []
    for mixer, runs in _by_mixer(results).items():
        reported = choose_runs([point for point in points if point.mixer == mixer])
        if reported:
            source = _source(mixer, runs, reported)
            made.append(Results(source, tuple(_records(reported, runs[0].source))))
    return made


def slim(results: Results) -> Results:
    """Returns what a frontier's file keeps of a run: its source, and the metrics of KEPT."""
    made = results.source.provenance
    kept = {name: made[name] for name in ("revision", "dirty", "devices") if name in made}
    found = (each for each in results.records if each.metric in KEPT.get(each.evaluator, ()))
    return Results(results.source, tuple(found)).with_source(provenance=kept, facts={})


def read_law(results: Results) -> Law | None:
    """Returns the law among the records of a mixer; None where it has none."""
    values = [results.value(NAME, "coefficient", term=term) for term in TERMS]
    draws = results.all(NAME, "coefficient_draws")
    if None in values or not draws:
        return None
    return Law(np.array(values, float), np.array(draws[0].value, float))


def _by_mixer(results: Sequence[Results]) -> dict[str, list[Results]]:
    found: dict[str, list[Results]] = {}
    for each in results:
        if each.source.kind == "run":
            found.setdefault(mixer_of(each.source.config["model"]["mixer"]), []).append(each)
    return found


def _records(reported: Sequence[Reported], run: Source) -> Iterator[Record]:
    """Yields the smallest state for each size, and the law where the runs determine one."""
    name = size_of(run.config["task"])[0]
    for (_, size), found in sorted(smallest_states(reported).items()):
        note = "no smaller state was tried" if found.reached and found.smallest_tried else ""
        status = "ok" if found.reached else "over"
        at = {name: size}
        yield Record(NAME, "smallest_state", found.state, at, found.runs, status, note)
    points = [point for each in reported for point in each.points]
    law = _law(points)
    if law is None:
        return
    for term in TERMS:
        value = law.coefficient(term).value
        yield Record(NAME, "coefficient", value, {"term": term}, len(points))
    at = {"draw": list(range(len(law.draws))), "term": list(TERMS)}
    yield Record(NAME, "coefficient_draws", law.draws.tolist(), at)


def _law(points: Sequence[Point]) -> Law | None:
    """Returns the law of runs; a diverged one has only wrong answers, as many as the others."""
    counts = [point.n for point in points if point.n]
    if not counts:
        return None
    errors = [1.0 if point.accuracy is None else 1 - point.accuracy for point in points]
    states, sizes = ([getattr(each, name) for each in points] for name in ("state", "size"))
    return fit_law(states, sizes, errors, [point.n or min(counts) for point in points])


def _source(mixer: str, runs: Sequence[Results], reported: Sequence[Reported]) -> Source:
    """Returns the source of a mixer's frontier, with its setting as facts."""
    first = runs[0].source
    flat = [flatten(each.source.config) for each in runs]
    name = size_of(first.config["task"])[0]
    points = [point for each in reported for point in each.points]

    def values(field: str) -> list:
        return sorted({each[field] for each in flat})

    setting = dict(
        task=task_without(first.config["task"], name),
        size=name,
        sizes=sorted({point.size for point in points}),
        states=sorted({point.state for point in points}),
        patterns=values("model.mixer"),
        widths=values("model.dim"),
        learning_rates=values("optim.lr"),
        runs=len(runs),
        reported=len(points),
        fresh=all(each.fresh for each in reported),
        reached=REACHED,
    )
    config, made = shared_config(first.config), first.provenance
    return Source(mixer, NAME, config, first.step, first.split, {}, made, {NAME: setting})
