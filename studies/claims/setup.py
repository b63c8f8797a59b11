"""The setup that claims are measured with."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import jax

from seqarch.config import Config
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.devices import place
from seqarch.costs.spec import Failed, Outcome, ProgramSpec
from seqarch.devices import DEVICES
from seqarch.errors import UserError
from seqarch.records import Record
from seqarch.runtime.process import quiet
from seqarch.runtime.progress import Say
from studies.claims.evidence import STATE, WORKING, record, unmeasured

SIZES = SMALL, LARGE = "1M", "8B"  # parameters of the members
AT_ONCE = "prefill at once"  # the phase of a prompt that is read as one segment


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
    say: Say

    @property
    def sizes(self) -> dict[str, Mapping[str, Config]]:
        """The members by their number of parameters."""
        return {SMALL: self.small, LARGE: self.large}

    @property
    def one_per_platform(self) -> list[str]:
        """The first target of each platform; targets of one platform compile alike."""
        found: dict[str, str] = {}
        for name in self.targets:
            found.setdefault(DEVICES[name].platform, name)
        return list(found.values())

    def curve(
        self, config: Config, phase: str, target: str, lengths: Sequence[int], **at: Any
    ) -> Iterator[Record]:
        """Yields the working bytes and the state of a program at every length.

        A program that fails, or whose compiler is not there, has a record with the reason. Training
        is of one row a device; prefill and decoding are of one sequence.
        """
        at |= dict(phase=phase, target=target)
        specs = [_spec(config, phase, target, length) for length in lengths]
        for length, outcome in zip(lengths, self._measure(specs), strict=True):
            if isinstance(outcome, UserError):
                yield unmeasured(WORKING, "not_run", str(outcome), **at, context=length)
            elif isinstance(outcome, Failed):
                yield unmeasured(WORKING, "failed", outcome.reason, **at, context=length)
            else:
                yield record(WORKING, outcome.working, **at, context=length)
                yield record(STATE, outcome.state, **at, context=length)

    def _measure(self, specs: Sequence[ProgramSpec]) -> Sequence[Outcome | UserError]:
        try:
            return self.cache.measure_all(specs)
        except UserError as error:  # of the target, so of every program
            return [error] * len(specs)

    def run_isolated(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns `function(*args)`, run on the local device in a process of its own."""
        options = dict(
            mp_context=get_context("spawn"), initializer=_begin, initargs=(self.platforms,)
        )
        with ProcessPoolExecutor(1, **options) as process:
            return process.submit(function, *args).result()


def _spec(config: Config, phase: str, target: str, length: int) -> ProgramSpec:
    if phase == AT_ONCE:
        config, phase = dataclasses.replace(config, length=length), "prefill"
    rows = place(target).count if phase == "train" else 1
    return ProgramSpec(config, phase, rows, length, target)


def _begin(platforms: str | None) -> None:
    """Prepares a fresh process."""
    quiet()
    jax.config.update("jax_platforms", platforms)
