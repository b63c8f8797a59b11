"""What a claim is, what it is tested with, and what comes of it."""

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
from seqarch.runtime.process import quiet
from seqarch.stats.fits import Exponent


class Verdict(enum.StrEnum):
    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    QUALIFIED = "qualified"
    OPEN = "not measured"


class Finding(NamedTuple):
    """number: what decides, in a line; why: in sentences; evidence: by row, cells by column; cells
    are written already.
    """

    verdict: Verdict
    number: str
    why: str
    evidence: Mapping[str, Mapping[str, str]] = {}


class Means(NamedTuple):
    """What claims are tested with.

    cache: measures; targets: by name, the first of which is the local device
    small, large: members by name, of about 1M parameters and of 8B (configs/memory.py)
    lengths: of curves; platforms: JAX_PLATFORMS for programs that run
    docs: where earlier records lie; workdir: for runs that are trained; say: takes lines of
      progress
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
    def one_of_each(self) -> list[str]:
        """One target of each platform: those that compile alike."""
        found: dict[str, str] = {}
        for name in self.targets:
            found.setdefault(DEVICES[name].platform, name)
        return list(found.values())

    def curve(
        self, config: Config, phase: str, target: str, lengths: Sequence[int] | None = None
    ) -> dict[int, Measurement]:
        """A measurement for each length that has one; of one row, or one for each device in
        training.
        """
        lengths = lengths or self.lengths
        rows = place(target).count if phase == "train" else 1
        outcomes = self.cache.measure_all(
            ProgramSpec(config, phase, rows, length, target) for length in lengths
        )
        found = dict(zip(lengths, outcomes, strict=True))
        for length, outcome in found.items():
            if isinstance(outcome, Failed):
                self.say(
                    f"{config.model.mixer} on {target}, {phase} of {length:,} tokens: "
                    f"{outcome.reason}"
                )
        return {
            length: outcome for length, outcome in found.items() if isinstance(outcome, Measurement)
        }

    def alone(self, function: Callable[..., Any], *args: Any) -> Any:
        """What `function`, which runs programs on the local device, returns in a process of its
        own.
        """
        spawned = dict(
            mp_context=get_context("spawn"), initializer=_platforms, initargs=(self.platforms,)
        )
        with ProcessPoolExecutor(1, **spawned) as process:
            return process.submit(function, *args).result()


class Claim(NamedTuple):
    """said: the claim, as it is made; test: what is measured; find: measures it. find may raise
    UserError.
    """

    said: str
    test: str
    find: Callable[[Means], Finding]

    def judge(self, means: Means) -> Finding:
        """The finding; what cannot be measured here has its reason."""
        try:
            return self.find(means)
        except (
            UserError,
            FileNotFoundError,
            BrokenProcessPool,
            jax.errors.JaxRuntimeError,
        ) as error:
            return Finding(Verdict.OPEN, "-", first_line(error))


def verdict(holds: Iterable[bool]) -> Verdict:
    """Of a claim in parts: qualified where some hold and some don't."""
    parts = list(holds)
    if not parts:
        raise UserError("nothing could be measured")
    return Verdict.CONFIRMED if all(parts) else Verdict.QUALIFIED if any(parts) else Verdict.REFUTED


def near(fit: Exponent | None, b: float) -> bool:
    """Whether an exponent is `b` within a tenth. Raises UserError where there is none: that says
    nothing either way.
    """
    if fit is None:
        raise UserError("too few lengths could be measured for an exponent; give more --lengths")
    return abs(fit.b - b) <= 0.1


def written(fit: Exponent | None) -> str:
    return "-" if fit is None else str(fit)


def _platforms(platforms: str | None) -> None:
    quiet()
    jax.config.update("jax_platforms", platforms)
