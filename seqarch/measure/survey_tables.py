"""The tables and figures of surveys (seqarch.measure.survey), for the report's renderer."""

from collections.abc import Sequence

import numpy as np

from seqarch.measure.cells import Failed
from seqarch.measure.figures import Figure, bytes_figure
from seqarch.measure.memory import Measurement
from seqarch.measure.programs import PHASES
from seqarch.measure.survey import Survey
from seqarch.measure.tables import NAME, Column, Row, Table, contexts

GROWS = {"train": "working memory", "prefill": "working memory and state", "decode": "state"}
PLOTTED = ("parameters", "optimizer", "state", "temporaries", "total", "flops")  # in TensorBoard


def tables(surveys: Sequence[Survey]) -> list[Table]:
    """For each target a table of each phase, and one of what fits. Rows show in the tables of their target alone."""
    return [table for target in dict.fromkeys(each.target for each in surveys) for table in _tables(surveys, target)]


def rows(surveys: Sequence[Survey]) -> list[Row]:
    """Values by target, since one page has the tables of several."""
    renamed = lambda each: {f"{each.target}/{key}": value for key, value in each.row.values.items()}
    return [Row(each.row.name, "model", renamed(each), each.row.config) for each in surveys]


def _tables(surveys: Sequence[Survey], target: str) -> list[Table]:
    here = [each for each in surveys if each.target == target]
    shown, definition = [each.row for each in here], _definition(here)
    made = []
    for phase, title in PHASES.items():
        lengths = contexts(shown, f"lab/{phase}")
        made.append(
            Table(
                f"{title.capitalize()} on {target}",
                f"Bytes of each device, {definition}, by tokens of context. Exponent: of the {GROWS[phase]}, over the tail.",
                (
                    NAME,
                    *(Column(f"{length:,}", f"{target}/lab/{phase}@{length}", "size") for length in lengths),
                    Column("exponent", f"{target}/lab/{phase}_exponent", "size"),
                    Column("longest that fits", f"{target}/lab/{phase}_longest", "size"),
                ),
            )
        )
    if ran := contexts(shown, "lab/actual"):
        columns = (Column(f"{length:,}", f"{target}/lab/actual@{length}", "size") for length in ran)
        caption = f"Bytes of training steps that ran, and the compiler's plan in per cent of them. {_overhead(shown)}"
        made.append(Table(f"Planned and actual on {target}", caption, (NAME, *columns)))
    served = contexts(shown, "lab/sequences")
    columns = (Column(f"{length:,}", f"{target}/lab/sequences@{length}", "size") for length in served)
    caption = "Sequences whose decoding step fits at once, by the tokens of context that each may have."
    return [*made, Table(f"Sequences at once on {target}", caption, (NAME, *columns))]


def _overhead(rows: Sequence[Row]) -> str:
    """The fit of actual = overhead + factor x planned over all of them, by least relative squares."""
    ran = [(r.values, n) for r in rows for n in contexts([r], "lab/actual_bytes")]
    found = [(values[f"lab/planned_bytes@{n}"], values[f"lab/actual_bytes@{n}"]) for values, n in ran]
    if len(found) < 3:
        return ""
    planned, actual = np.array(found, float).T
    system = np.stack([1 / actual, planned / actual], axis=1)
    (overhead, factor), *_ = np.linalg.lstsq(system, np.ones(len(found)), rcond=None)
    return f"Fitted: actual = {overhead / 2**20:.0f} MiB + {factor:.3f} x planned."


def _definition(here: Sequence[Survey]) -> str:
    measured = [outcome for each in here for outcome in each.cells.values() if isinstance(outcome, Measurement)]
    return " or ".join(sorted({outcome.definition for outcome in measured})) or "of which there are none"


def figures(surveys: Sequence[Survey]) -> list[Figure]:
    """Each phase's bytes against the context, for each target."""
    made = []
    for target in dict.fromkeys(each.target for each in surveys):
        shown = [each.row for each in surveys if each.target == target]
        for phase, title in PHASES.items():
            caption = f"Bytes of the compiled {title} on a device of {target} against the context, both logarithmic."
            name, title = f"{phase}-{target.replace(':', '-')}", f"{title.capitalize()} on {target}"
            made.append(bytes_figure(shown, f"lab/{phase}_bytes", name, title, caption))
    return [figure for figure in made if figure]


def points(cells: Sequence[Row]) -> dict[tuple[str, str], dict[int, dict[str, float]]]:
    """By target and model, then by length: the numbers that TensorBoard plots, such as "train/total"."""
    made: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for row in cells:
        numbers = {f"{row.values['phase']}/{key}": row.values[key] for key in PLOTTED if row.values.get(key) is not None}
        curve = made.setdefault((row.values["target"], row.name), {})
        curve.setdefault(row.values["length"], {}).update(numbers)
    return made


CELL = ("phase", "batch", "length")
CELLS = Table(
    "Cells",
    "Every measurement: bytes of one device, FLOPs of one call on all devices.",
    (NAME, *(Column(key, key, "text") for key in ("target", *CELL, *Measurement._fields, "failed", "revision"))),
)


def cell_rows(surveys: Sequence[Survey], revision: str = "") -> list[Row]:
    """A row for each cell of the curves, for CELLS."""
    made = []
    for each in surveys:
        for cell, outcome in each.cells.items():
            said = dict(failed=outcome.reason) if isinstance(outcome, Failed) else outcome._asdict()
            about = {key: getattr(cell, key) for key in ("target", *CELL)}
            made.append(Row(each.row.name, "model", about | said, each.row.config, revision=revision))
    return made
