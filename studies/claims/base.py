"""Claims and their findings."""

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import jax

from seqarch.errors import UserError, first_line
from seqarch.records import Record, Results
from seqarch.report.tables import Column
from seqarch.stats.exponents import Exponent
from studies.claims.evidence import EVALUATOR, unmeasured
from studies.claims.setup import Setup

STOPPED = "stopped"  # the metric of a record that says what ended the measurement of a claim
UNMEASURABLE = (UserError, FileNotFoundError, BrokenProcessPool, jax.errors.JaxRuntimeError)


class Verdict(enum.StrEnum):
    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    QUALIFIED = "qualified"
    OPEN = "not measured"


class Finding(NamedTuple):
    """What the records of a claim say of it.

    Attributes:
      verdict: follows from the numbers.
      number: the numbers that decide, in one line; "" where there are none.
      why: the reasons, in sentences.
      columns: those of the table of evidence.
      rows: the values of each row by its name, one for each column.
    """

    verdict: Verdict
    number: str
    why: str
    columns: Sequence[Column] = ()
    rows: Mapping[str, Sequence[Any]] = {}


class Claim(NamedTuple):
    """A claim and its test.

    Attributes:
      name: that of its records.
      said: the claim, in the words in which it is made.
      test: what is measured, in words.
      measure: yields the records; raises one of UNMEASURABLE where it cannot.
      judge: returns what the records say; raises UserError where they do not say enough.
    """

    name: str
    said: str
    test: str
    measure: Callable[[Setup], Iterable[Record]]
    judge: Callable[[Results], Finding]

    def records(self, setup: Setup) -> Iterator[Record]:
        """Yields the records; where not all can be measured, the last one says why."""
        try:
            yield from self.measure(setup)
        except UNMEASURABLE as error:
            yield unmeasured(STOPPED, "not_run", first_line(error))

    def finding(self, found: Results) -> Finding:
        """Returns what the records say; where they do not say enough, the reason."""
        try:
            if stopped := found.find(EVALUATOR, STOPPED):
                raise UserError(stopped.note)
            return self.judge(found)
        except UserError as error:
            return Finding(Verdict.OPEN, "", first_line(error))


def verdict(holds: Iterable[bool]) -> Verdict:
    """Returns the verdict of a claim in parts; it is qualified where only some of them hold.

    Raises:
      UserError: where there are no parts, so that nothing was measured.
    """
    parts = list(holds)
    if not parts:
        raise UserError("nothing could be measured")
    if all(parts):
        return Verdict.CONFIRMED
    return Verdict.QUALIFIED if any(parts) else Verdict.REFUTED


def near(fit: Exponent | None, b: float) -> bool:
    """Returns whether an exponent is `b` to within a tenth.

    Raises:
      UserError: where there is no fit, which says nothing either way.
    """
    if fit is None:
        raise UserError("too few lengths could be measured for an exponent; give more --lengths")
    return abs(fit.b - b) <= 0.1
