"""The learning rates of a probe: which each member chose, and the window of those that work."""

from collections.abc import Collection

from seqarch.records import Value
from seqarch.report.formats import LESS, MORE, window_cells
from seqarch.report.members import Comparison, Member
from seqarch.report.probes import solved_from
from seqarch.report.tables import NAME, Cells, Column, Table, member_table
from seqarch.stats.learning_rates import (
    WINDOW_SEEDS,
    Window,
    is_half_octave_grid,
    learning_rate_window,
)
from seqarch.tasks.base import ACCURACY


def rate_table(probe: Comparison) -> Table | None:
    """Returns the choice of each member on a probe; None where there was none to make."""
    if not any(member.search for member in probe.members):
        return None
    return member_table(
        "Learning rates",
        "Chosen on validation rows by fit rate, then median, with seeds that are not reported. "
        "Window: the widest stretch of a half-octave grid in which at least half of the seeds "
        f"solve the task, from {WINDOW_SEEDS} seeds on. Where {LESS}or {MORE}stands, the window "
        "ends where the grid does, and may be wider.",
        probe.members,
        (
            NAME,
            Cells(Column("chosen"), _chosen),
            Cells(Column("grid"), lambda member: grid_text(scores_by_rate(member))),
            Cells(Column("seeds", "count"), lambda member: _seeds(scores_by_rate(member))),
            Cells(Column("window"), _window_text),
            Cells(Column("octaves"), _octaves),
        ),
    )


def scores_by_rate(member: Member) -> dict[float, list[Value | None]]:
    """Returns the validation scores of the seeds that chose, by rising learning rate."""
    found: dict[float, list[Value | None]] = {}
    for each in member.search.all("search", ACCURACY.metric) if member.search else ():
        found.setdefault(each.at["lr"], []).append(each.value)
    return dict(sorted(found.items()))


def measured_window(member: Member) -> Window | None | bool:
    """Returns the window of learning rates; None where none works, False where none is measured."""
    scores = scores_by_rate(member)
    if _seeds(scores) < WINDOW_SEEDS or not is_half_octave_grid(list(scores)):
        return False
    return learning_rate_window(scores, solved_from(member.results))


def _seeds(scores: dict[float, list[Value | None]]) -> int:
    """Returns the number of seeds that each learning rate has at least."""
    return min(map(len, scores.values()), default=0)


def _chosen(member: Member) -> str | None:
    """Returns the learning rate of the runs that are reported, and whether it ends the grid."""
    lrs = list(scores_by_rate(member))
    lr = member.config.get("optim", {}).get("lr")
    if not lrs or not any(each.records[0].status == "ok" for each in member.results):
        return None
    return f"{lr:g}, the end of the grid" if lr in (lrs[0], lrs[-1]) else f"{lr:g}"


def grid_text(rates: Collection[float]) -> str | None:
    """Returns rising learning rates as "3 from 0.001 to 0.01"; None where there are none."""
    return f"{len(rates)} from {min(rates):g} to {max(rates):g}" if rates else None


def _window_text(member: Member) -> str | None:
    found = measured_window(member)
    return None if found is False else " to ".join(dict.fromkeys(window_cells(found)[:2]))


def _octaves(member: Member) -> str | None:
    found = measured_window(member)
    return window_cells(found)[2] if found else None
