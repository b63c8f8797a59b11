"""What a reader must know of records before believing a number."""

from seqarch.report.formats import show
from seqarch.report.members import Comparison, revisions
from seqarch.report.missing import has_diverged


def notices(comparison: Comparison) -> list[str]:
    """Returns a line that counts diverged runs, and one that names revisions that are mixed."""
    runs = [each for member in comparison.models for each in member.results]
    diverged = sum(map(has_diverged, runs))
    made = []
    if diverged:
        made.append(
            f"{diverged} of {len(runs)} runs diverged; fit rates count them, and means do not"
        )
    found = revisions(each for member in comparison.members for each in member.results)
    if len(found) > 1:
        named = [f"r{number} is {show(each, 'revision')}" for number, each in enumerate(found, 1)]
        made.append(
            f"Records of {len(found)} revisions are mixed, which may differ in more than is shown: "
            f"{', '.join(named)}"
        )
    return made
