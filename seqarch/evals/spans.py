"""How well an encoder-decoder fills in the spans that are missing in held-out text."""

from collections.abc import Iterator

from seqarch.config import Config
from seqarch.errors import UserError
from seqarch.evals.answers import score_rows
from seqarch.evals.evaluator import Evaluator, Metric, TableSpec
from seqarch.evals.loaded_run import LoadedRun
from seqarch.records import Record
from seqarch.tasks.text.span_corruption import SPAN_LOSS


def check(config: Config, rows: int = 1) -> None:
    """Raises UserError for no rows."""
    del config
    if rows < 1:
        raise UserError(f"evals.spans.rows is {rows}; give at least 1")


def evaluate(run: LoadedRun, *, rows: int = 512) -> Iterator[Record]:
    """Yields the loss and the accuracy over the tokens of targets, sentinels included.

    Args:
      run: the run to measure.
      rows: windows of the held-out text, evenly spaced, or all if there are fewer.
    """
    whole = run.task.windows(run.split.split, rows)
    nats, right = score_rows(run, whole, "rows with missing spans")
    weight = whole.weights.sum()
    n = int(weight)
    yield Record("spans", "loss", float((nats * whole.weights).sum() / weight), n=n)
    yield Record("spans", "token_accuracy", float((right * whole.weights).sum() / weight), n=n)


EVALUATOR = Evaluator(
    evaluate,
    metrics=(
        Metric("loss", "nats/token", "ratio", "Mean nats of a token of the target.", True),
        Metric(
            "token_accuracy",
            title="accuracy",
            unit="percent",
            help="Share of tokens of the target that are the model's most likely ones.",
            lower=False,
        ),
    ),
    tables=(
        TableSpec(
            "Missing spans",
            "Over the tokens of targets of held-out text, sentinels included, each given those "
            "before it.",
            ("loss", "token_accuracy"),
        ),
    ),
    over_seeds=True,
    score=SPAN_LOSS.metric,
    check=check,
)
