"""docs/reproductions/report.md: all reproductions with their verdicts, then each with its runs."""

from collections.abc import Sequence
from typing import Any

from seqarch.errors import UserError
from seqarch.records import Results
from seqarch.report.formats import format_percent, window_cells
from seqarch.report.notices import revisions_text
from seqarch.report.pages import Page
from seqarch.report.tables import Column, Row, Table
from seqarch.runtime.progress import duration
from studies.reproductions import (
    copying,
    flipflop_glitches,
    gru_state_tracking,
    h3_recall,
    householder_products,
    hybrid_recall,
    induction_length,
    min_gru_s3,
    mqar_attention,
    mqar_published,
    mqar_width,
    negative_eigenvalues,
    parity_beyond_training,
    recall_window,
    selective_copying,
    short_convolution,
    xlstm_parity,
)
from studies.reproductions.base import ACCURACY, Outcomes, Reproduction, Status
from studies.reproductions.run import FACTS, by_reproduction

REPRODUCTIONS: dict[str, Reproduction] = {
    each.REPRODUCTION.name: each.REPRODUCTION
    for each in (
        gru_state_tracking,
        mqar_attention,
        mqar_published,
        mqar_width,
        induction_length,
        parity_beyond_training,
        h3_recall,
        copying,
        recall_window,
        short_convolution,
        hybrid_recall,
        negative_eigenvalues,
        householder_products,
        xlstm_parity,
        selective_copying,
        min_gru_s3,
        flipflop_glitches,
    )
}
TITLE = "Reproductions"
COLUMNS = ("result", "source", "published", "here", "verdict", "tier", "time", "command")
GLANCE = ("result", "here", "verdict")
MEDIANS = "Median accuracy of fresh seeds, and how many of them solve the task."
ABOUT = (
    f"{MEDIANS} Time: of all runs together, on one CPU core each while others shared the machine. "
    "Fit rate: runs that solve the task, of all, with Wilson's 95% interval."
)


def reproductions_page(results: Sequence[Results]) -> Page:
    """Returns the page of a records file; what has no records is shown as not run."""
    found = by_reproduction(results)
    rows = {name: _row(study, found.get(name, [])) for name, study in REPRODUCTIONS.items()}
    columns = tuple(Column(title, "code" if title == "command" else "text") for title in COLUMNS)
    whole = Table("All reproductions", ABOUT, columns, tuple(rows.values()))
    run = [name for name in REPRODUCTIONS if name in found]
    sections = [_section(REPRODUCTIONS[name], found[name]) for name in run]
    return Page(TITLE, [_glance([rows[name] for name in run]), whole, *sections])


def _glance(rows: Sequence[Row]) -> Table:
    """The results that were run, in few columns."""
    places = [COLUMNS.index(title) for title in GLANCE]
    columns = tuple(Column(title) for title in GLANCE)
    chosen = tuple(Row(tuple(row.cells[place] for place in places)) for row in rows)
    return Table("At a glance", MEDIANS, columns, chosen)


def _row(study: Reproduction, results: Sequence[Results]) -> Row:
    verdict, here = Status.OPEN, None
    if results:
        verdict, here = verdict_of(study, results)[0], _here(study, Outcomes(results))
    seconds = sum(each.fact(FACTS, "seconds") or 0.0 for each in results)
    time = duration(seconds) if seconds else None
    command = f"python scripts/reproduce.py {study.name}"
    about = study.said, study.source, study.published
    return Row((*about, here, str(verdict), str(study.tier), time, command))


def verdict_of(study: Reproduction, results: Sequence[Results]) -> tuple[Status, list[bool], str]:
    """Returns the verdict, which criteria hold, and, where runs do not say, the reason."""
    try:
        return *study.judge(Outcomes(results)), ""
    except UserError as error:
        return Status.OPEN, [], str(error)


def _here(study: Reproduction, found: Outcomes) -> str:
    """What the runs of each arm reached, in one line."""
    return "; ".join(f"{arm}: {_reached(study, found, arm)}" for arm in study.arms)


def _reached(study: Reproduction, found: Outcomes, arm: str) -> str:
    try:
        if study.seeds:
            rate, last = found.fit_rate(arm), study.measures[-1]
            said = f"{format_percent(found.median(arm))}, {rate.fits} of {rate.n}"
            if last != ACCURACY:
                said += f" ({format_percent(found.median(arm, last))} {last.title})"
            return said
        low, high, octaves = window_cells(found.window(arm))
        return f"window {low} to {high}, {octaves} octaves"
    except UserError as error:
        return str(error)


def _section(study: Reproduction, results: Sequence[Results]) -> Table:
    """The runs of a reproduction; the caption says what counts and what holds."""
    found = Outcomes(results)
    verdict, holds, why = verdict_of(study, results)
    words = [f"{study.said} {study.setting} Verdict: {verdict}.{f' {why}.' * bool(why)}"]
    for criterion, held in zip(study.criteria, holds, strict=bool(holds)):
        words.append(f"- {criterion.words}: {'yes' if held else 'no'}")
    words.append(f"{study.explained} Revision {revisions_text(results)}.".strip())
    columns = [Column("arm"), Column("learning rate"), Column("runs", "count")]
    for measure in study.measures:
        columns += [Column(f"{measure.title}, median", "percent"), Column("fit rate", "fit_rate")]
        columns.append(Column("every run"))
    rows = tuple(Row(_cells(study, found, arm)) for arm in study.arms)
    if not study.seeds:
        return _searches(study, found, "\n\n".join(words))
    return Table(study.name, "\n\n".join(words), tuple(columns), rows)


def _cells(study: Reproduction, found: Outcomes, arm: str) -> tuple[Any, ...]:
    lr = found.learning_rate(arm) if study.searches else study.lrs[0]
    cells: list[Any] = [arm, f"{lr:g}" if lr else None, len(found.runs(arm))]
    for measure in study.measures:
        if not found.runs(arm):
            cells += [None] * 3
            continue
        scores = found.scores(arm, measure)
        cells += [found.median(arm, measure), found.fit_rate(arm, measure), _all(scores)]
    return tuple(cells)


def _all(scores: Sequence[float | None]) -> str:
    """Every score in rising order, as per cent."""
    shown = sorted(score for score in scores if score is not None)
    diverged = ["diverged"] * (len(scores) - len(shown))
    return " ".join([*(format_percent(score).rstrip("%") for score in shown), *diverged])


def _searches(study: Reproduction, found: Outcomes, caption: str) -> Table:
    """Scores of the selection seeds by learning rate, where these are what is reported."""
    columns = [Column("learning rate")]
    columns += [Column(f"{arm}, {what}") for arm in study.arms for what in ("median", "fits")]
    rows = []
    for lr in study.lrs:
        cells: list[Any] = [f"{lr:g}"]
        for arm in study.arms:
            scores = found.search(arm).get(lr, [])
            solved = sum(score is not None and score >= found.solved(arm) for score in scores)
            shown = sorted(score or 0.0 for score in scores)
            median = format_percent(shown[len(shown) // 2]) if shown else None
            cells += [median, f"{solved} of {len(scores)}" if scores else None]
        rows.append(Row(tuple(cells)))
    return Table(study.name, caption, tuple(columns), tuple(rows))
