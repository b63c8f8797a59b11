"""What runs lack: members stand in tables also where they have no score."""

from collections import Counter

from seqarch import tasks
from seqarch.records import Results
from seqarch.report.members import Member

SAID = {
    "diverged": "diverged",
    "failed": "failed",
    "oom": "did not fit the device",
    "not_run": "not measured",
}


def lacking(member: Member) -> str:
    """Returns what keeps runs from having a score, such as "1 of 3 diverged"; "" where none does.

    Baselines lack nothing.
    """
    if member.kind != "run":
        return ""
    found = Counter(text for each in member.results if (text := _reason(each)))
    total = len(member.results)
    counted = (f"{count} of {total} " if total > 1 else "" for count in found.values())
    return "; ".join(count + text for count, text in zip(counted, found, strict=True))


def _reason(results: Results) -> str:
    """Returns why a run has no score; "" where it has one."""
    score = tasks.find(results.source.config.get("task", "text")).score
    record = results.find(score.evaluator, score.metric)
    if record is None:
        return f"without {score.title}"
    if record.value is not None:
        return ""
    said = SAID.get(record.status, f"without {score.title}")
    return f"{said} ({record.note})" if record.note else said


def has_diverged(results: Results) -> bool:
    """Returns whether records say that their run diverged (seqarch.compare.execution.failure)."""
    return any(record.status == "diverged" and not record.at for record in results.records)
