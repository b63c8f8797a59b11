"""What a reader must know of records before believing a number."""

from collections.abc import Iterable

from seqarch.records import Results
from seqarch.report.formats import show
from seqarch.report.members import Comparison, results_of, revisions
from seqarch.report.missing import has_diverged


def notices(comparison: Comparison) -> list[str]:
    """Returns a line that counts diverged runs, and one that names revisions that are mixed."""
    runs, made = results_of(comparison.models), []
    diverged = sum(map(has_diverged, runs))
    if diverged:
        made.append(
            f"{diverged} of {len(runs)} runs diverged; fit rates count them, and means do not"
        )
    mixed = mixed_revisions(comparison.results)
    return [*made, mixed] if mixed else made


def revisions_text(results: Iterable[Results]) -> str:
    """Returns the revisions that measured results, as text."""
    return ", ".join(show(each, "revision") for each in revisions(results))


def mixed_revisions(results: Iterable[Results]) -> str:
    """Returns a line that names the revisions of results; "" where there is at most one."""
    found = revisions(results)
    if len(found) < 2:
        return ""
    named = [f"r{number} is {show(each, 'revision')}" for number, each in enumerate(found, 1)]
    return (
        f"Records of {len(found)} revisions are mixed, which may differ in more than is shown: "
        f"{', '.join(named)}"
    )
