"""What a model costs on a target: its memory against the context, the longest that fits, how many sequences fit at once.

Every number is a measured cell (seqarch.measure.cells) or follows from several: exponents and searches (.curves).
"""

import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from seqarch.config import Config, to_dict
from seqarch.errors import UserError
from seqarch.measure.cells import Cell, Failed, Lab, Outcome
from seqarch.measure.curves import exponent, largest
from seqarch.measure.figures import Figure, bytes_figure
from seqarch.measure.memory import Measurement
from seqarch.measure.programs import PHASES
from seqarch.measure.tables import NAME, Column, Row, Table, contexts, format_bytes
from seqarch.measure.targets import place

LONGEST = 2**24  # tokens; a context that still fits is said to be longer
MOST = 2**16  # sequences at once
SERVED = (4096, 32768, 131072, 1048576)  # contexts at which sequences are counted
TITLES = {"train": "training step", "prefill": "prefill", "decode": "decoding step"}
PLOTTED = ("parameters", "optimizer", "state", "temporaries", "total", "flops")  # in TensorBoard
GROWS = {"train": "working memory", "prefill": "working memory and state", "decode": "state"}


class Survey(NamedTuple):
    """One member on one target. cells: of its curves; row: what the tables show of it."""

    target: str
    cells: dict[Cell, Outcome]
    row: Row


def survey(
    lab: Lab,
    name: str,
    config: Config,
    target: str,
    lengths: Sequence[int],
    *,
    served: Sequence[int] = SERVED,
    done: Callable[[str], None] = lambda phase: None,
) -> Survey:
    """Curves of all phases and what fits. Training is of the fewest rows that the target's devices divide, serving of one.

    done: is called after each of the phases, and after "sequences"
    """
    count = place(target).count
    cells, values = {}, {"target": target}
    for phase in PHASES:
        rows = count * config.optim.accumulate if phase == "train" else 1
        cell = functools.partial(Cell, config, phase, rows, target=target)
        found = {length: lab.measure(cell(length)) for length in lengths}
        cells |= {cell(length): outcome for length, outcome in found.items()}
        values |= _curve(phase, found) | _longest(lab, phase, cell, found)
        done(phase)
    if memory := _memory(cells.values()):
        for length in served:
            total = lambda n: _total(lab.measure(Cell(config, "decode", n * count, length, target)))  # noqa: B023, E731
            fit = largest(total, memory, {}, MOST)
            values[f"lab/sequences@{length}"] = f"{fit.size * count:,}{'' if fit.beyond else ' or more'}"
    done("sequences")
    return Survey(target, cells, Row(name, "model", values, to_dict(config)))


def run(
    lab: Lab,
    members: dict[str, Config],
    targets: Sequence[str],
    lengths: Sequence[int],
    *,
    workers: int = 2,
    say: Callable[[str], None] = print,
) -> list[Survey]:
    """Surveys all members on all targets, several at once; a target that refuses a member costs a line.

    Raises UserError, the first one, where nothing could be surveyed.
    """
    pairs, errors = list(itertools.product(targets, members)), {}
    progress = Progress(len(pairs) * (len(PHASES) + 1), say)

    def one(pair: tuple[str, str]) -> Survey | None:
        target, name = pair
        done = lambda phase: progress.done(f"{name} on {target}: {phase}")  # noqa: E731
        try:
            return survey(lab, name, members[name], target, lengths, done=done)
        except UserError as error:
            if str(error) not in errors:
                say(f"{name} on {target}: {error}")
            errors[str(error)] = error
            return None

    with futures.ThreadPoolExecutor(workers) as pool:
        surveys = [each for each in pool.map(one, pairs) if each]
    if not surveys:
        raise next(iter(errors.values()))
    for each in surveys:
        for cell, outcome in each.cells.items():
            if isinstance(outcome, Failed):
                say(f"{each.row.name} on {each.target}, {cell.phase} of {cell.length:,} tokens: {outcome.reason}")
    return surveys


class Progress:
    """Lines that say what is done and how long the rest will take at the pace so far; from several threads."""

    def __init__(self, total: int, say: Callable[[str], None]):
        self._total, self._say, self._count = total, say, 0
        self._start, self._lock = time.monotonic(), threading.Lock()

    def done(self, what: str) -> None:
        with self._lock:
            self._count += 1
            left = (time.monotonic() - self._start) / self._count * (self._total - self._count)
            self._say(f"[{self._count}/{self._total}, {left / 60:.1f} min left] {what}")


def _curve(phase: str, found: dict[int, Outcome]) -> dict[str, Any]:
    values: dict[str, Any] = {f"lab/{phase}@{length}": describe(outcome) for length, outcome in found.items()}
    measured = {length: each for length, each in found.items() if isinstance(each, Measurement)}
    values |= {f"lab/{phase}_bytes@{length}": each.total for length, each in measured.items()}
    grows = {"train": lambda m: m.working, "prefill": lambda m: m.working + m.state, "decode": lambda m: m.state}[phase]
    if fit := exponent(list(measured), [grows(each) for each in measured.values()]):
        values[f"lab/{phase}_exponent"] = f"{abs(fit.b) if abs(fit.b) < 0.005 else fit.b:.2f} ± {fit.half:.2f}"
        values[f"lab/{phase}_exponent_value"], values[f"lab/{phase}_exponent_half"] = fit
    return values


def _longest(lab: Lab, phase: str, cell: Callable[[int], Cell], found: dict[int, Outcome]) -> dict[str, str]:
    memory = _memory(found.values())
    if not memory:
        return {}
    known = {length: _total(outcome) for length, outcome in found.items()}
    fit = largest(lambda length: _total(lab.measure(cell(length))), memory, known, LONGEST)
    return {f"lab/{phase}_longest": f"{fit.size:,}" if fit.beyond else f"over {fit.size:,}"}


def describe(outcome: Outcome) -> str:
    """A cell of a table: "1.2 GiB", "needs 136 GiB of 15.8 GiB", or that it failed."""
    if isinstance(outcome, Failed):
        return "failed"
    if outcome.fits:
        return format_bytes(outcome.total)
    return f"needs {format_bytes(outcome.total)} of {format_bytes(outcome.memory)}"


def _total(outcome: Outcome) -> float | None:
    return None if isinstance(outcome, Failed) else outcome.total


def _memory(outcomes: Iterable[Outcome]) -> int | None:
    """What the device has; where the compiler refused a program it says less than the data sheet, which counts then."""
    return min((outcome.memory for outcome in outcomes if isinstance(outcome, Measurement)), default=None)


def survey_tables(surveys: Sequence[Survey]) -> list[Table]:
    """For each target a table of each phase, and one of what fits. Rows show in the tables of their target alone."""
    return [table for target in dict.fromkeys(each.target for each in surveys) for table in _tables(surveys, target)]


def survey_rows(surveys: Sequence[Survey]) -> list[Row]:
    """Values by target, since one page has the tables of several."""
    renamed = lambda each: {f"{each.target}/{key}": value for key, value in each.row.values.items()}  # noqa: E731
    return [Row(each.row.name, "model", renamed(each), each.row.config) for each in surveys]


def _tables(surveys: Sequence[Survey], target: str) -> list[Table]:
    here = [each for each in surveys if each.target == target]
    rows, definition = [each.row for each in here], _definition(here)
    tables = []
    for phase, title in TITLES.items():
        lengths = contexts(rows, f"lab/{phase}")
        tables.append(
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
    served = contexts(rows, "lab/sequences")
    columns = (Column(f"{length:,}", f"{target}/lab/sequences@{length}", "size") for length in served)
    caption = "Sequences whose decoding step fits at once, by the tokens of context that each may have."
    return [*tables, Table(f"Sequences at once on {target}", caption, (NAME, *columns))]


def _definition(here: Sequence[Survey]) -> str:
    measured = [outcome for each in here for outcome in each.cells.values() if isinstance(outcome, Measurement)]
    return " or ".join(sorted({outcome.definition for outcome in measured})) or "of which there are none"


def survey_figures(surveys: Sequence[Survey]) -> list[Figure]:
    """Each phase's bytes against the context, for each target."""
    figures = []
    for target in dict.fromkeys(each.target for each in surveys):
        rows = [each.row for each in surveys if each.target == target]
        for phase, title in TITLES.items():
            caption = f"Bytes of the compiled {title} on a device of {target} against the context, both logarithmic."
            name, title = f"{phase}-{target.replace(':', '-')}", f"{title.capitalize()} on {target}"
            figures.append(bytes_figure(rows, f"lab/{phase}_bytes", name, title, caption))
    return [figure for figure in figures if figure]


CELLS = Table(
    "Cells",
    "Every measurement: bytes of one device, FLOPs of one call on all devices.",
    (NAME, *(Column(key, key, "text") for key in ("target", "phase", "batch", "length", *Measurement._fields, "failed"))),
)


def cell_rows(surveys: Sequence[Survey]) -> list[Row]:
    """A row for each cell of the curves, for CELLS."""
    rows = []
    for each in surveys:
        for cell, outcome in each.cells.items():
            said = dict(failed=outcome.reason) if isinstance(outcome, Failed) else outcome._asdict()
            about = dict(target=cell.target, phase=cell.phase, batch=cell.batch, length=cell.length)
            rows.append(Row(each.row.name, "model", about | said, each.row.config))
    return rows
