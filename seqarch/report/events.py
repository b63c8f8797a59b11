"""Records as TensorBoard events: the evaluation of a run, and a sweep over contexts."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from seqarch import records
from seqarch.costs.results import EVALUATOR
from seqarch.records import Results
from seqarch.report.single import run_text
from seqarch.runtime.trackers import following_group
from seqarch.runtime.trackers.tensorboard import add_events
from seqarch.training.metrics import METRICS

# Metrics of a sweep that are plotted.
PLOTTED = ("total_bytes", "parameters_bytes", "optimizer_bytes", "state_bytes")
PLOTTED += ("temporaries_bytes", "flops")


def write_evaluation(results: Results, run_dir: Path) -> None:
    """Writes the numbers of an evaluation after those of training, and all of them as one text."""
    if "tensorboard" in results.source.config["trackers"]:
        points = {results.source.step: scalars(results)}
        add_events(run_dir, points, {"evaluation": run_text(results)})


def scalars(results: Results) -> dict[str, float]:
    """Returns the numbers of results by their tags, which follow those of training.

    An evaluator that found nothing to measure, and whose numbers are all 0, is left out.
    """
    found = [record for record in results.records if record.is_scalar]
    measured = {record.evaluator for record in found if record.value != 0}
    group = following_group(METRICS, "eval")
    return {
        f"{group}/{records.tag(record)}": record.value
        for record in found
        if record.evaluator in measured
    }


def write_costs(results: Sequence[Results], targets: Sequence[str], directory: Path) -> None:
    """Writes a TensorBoard run for each member on each target, with the context as its step."""
    shutil.rmtree(directory, ignore_errors=True)
    for target in targets:
        for each in results:
            if points := curves(each, target):
                add_events(directory / target / each.source.member, points)


def curves(results: Results, target: str) -> dict[int, dict[str, float]]:
    """Returns what is plotted of a member on a target.

    Returns:
      Values by context and by tag, such as "train/total_bytes".
    """
    made: dict[int, dict[str, float]] = {}
    for metric in PLOTTED:
        for record in results.all(EVALUATOR, metric, target=target):
            if record.value is not None:
                values = made.setdefault(record.at["context"], {})
                values[f"{record.at['phase']}/{metric}"] = record.value
    return made
