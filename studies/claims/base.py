"""Claims, the setup that they are measured with, and their findings."""

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import jax

from seqarch.config import Config
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.devices import place
from seqarch.costs.memory import Measurement
from seqarch.costs.spec import Failed, ProgramSpec
from seqarch.devices import DEVICES
from seqarch.errors import UserError, first_line
from seqarch.report.formats import show
from seqarch.runtime.process import quiet
from seqarch.stats.fits import Exponent


class Verdict(enum.StrEnum):
    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    QUALIFIED = "qualified"
    OPEN = "not measured"


class Quantity(NamedTuple):
    """A number with its unit, which prints as a page shows it.

    Attributes:
      value: a number; a pair of b and its half width for the unit "exponent".
      unit: a name in `seqarch.report.formats.FORMATS`.
    """

    value: Any
    unit: str

    def __str__(self) -> str:
        return show(self.value, self.unit)


Cell = Quantity | str | None


class Finding(NamedTuple):
    """The result of a claim's measurement.

    Attributes:
      verdict: follows from the numbers.
      number: the numbers that decide, in one line.
      why: the reasons, in sentences.
      evidence: a table, by row and then by column.
    """

    verdict: Verdict
    number: str
    why: str
    evidence: Mapping[str, Mapping[str, Cell]] = {}


class Setup(NamedTuple):
    """What claims are measured with.

    Attributes:
      cache: compiles programs and measures them.
      targets: names of devices; the first is the local one.
      small: members of about 1M parameters, by name (configs/memory.py).
      large: members of 8B parameters, by name.
      trained: the config of runs that are trained.
      lengths: tokens of context at which curves are measured.
      docs: the directory of the committed records.
      workdir: the directory of runs that are trained.
      platforms: JAX_PLATFORMS of programs that run.
      say: takes lines of progress.
    """

    cache: MeasurementCache
    targets: Sequence[str]
    small: Mapping[str, Config]
    large: Mapping[str, Config]
    trained: Config
    lengths: Sequence[int]
    docs: Path
    workdir: Path
    platforms: str | None
    say: Callable[[str], None]

    @property
    def one_per_platform(self) -> list[str]:
        """The first target of each platform; targets of one platform compile alike."""
        found: dict[str, str] = {}
        for name in self.targets:
            found.setdefault(DEVICES[name].platform, name)
        return list(found.values())

    def curve(
        self, config: Config, phase: str, target: str, lengths: Sequence[int] | None = None
    ) -> dict[int, Measurement]:
        """Measures a program at every length; a length that fails is said and left out.

        Training is of one row a device; prefill and decoding are of one sequence.
        """
        lengths = lengths or self.lengths
        rows = place(target).count if phase == "train" else 1
        specs = [ProgramSpec(config, phase, rows, length, target) for length in lengths]
        found = {}
        for length, outcome in zip(lengths, self.cache.measure_all(specs), strict=True):
            if isinstance(outcome, Measurement):
                found[length] = outcome
            elif isinstance(outcome, Failed):
                where = f"{config.model.mixer} on {target}, {phase} of {length:,} tokens"
                self.say(f"{where}: {outcome.reason}")
        return found

    def run_isolated(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns `function(*args)`, run on the local device in a process of its own."""
        options = dict(
            mp_context=get_context("spawn"), initializer=_begin, initargs=(self.platforms,)
        )
        with ProcessPoolExecutor(1, **options) as process:
            return process.submit(function, *args).result()


UNMEASURABLE = (UserError, FileNotFoundError, BrokenProcessPool, jax.errors.JaxRuntimeError)


class Claim(NamedTuple):
    """A claim and its test.

    Attributes:
      said: the claim, in the words in which it is made.
      test: what is measured, in words.
      find: measures it; raises UserError where it cannot.
    """

    said: str
    test: str
    find: Callable[[Setup], Finding]

    def judge(self, setup: Setup) -> Finding:
        """Returns the finding; where nothing can be measured, one that says why."""
        try:
            return self.find(setup)
        except UNMEASURABLE as error:
            return Finding(Verdict.OPEN, "-", first_line(error))


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


def exponent_cell(fit: Exponent | None) -> Quantity | None:
    return fit and Quantity(list(fit), "exponent")


def bytes_cell(value: float) -> Quantity:
    return Quantity(value, "bytes")


def _begin(platforms: str | None) -> None:
    """Prepares a fresh process."""
    quiet()
    jax.config.update("jax_platforms", platforms)
