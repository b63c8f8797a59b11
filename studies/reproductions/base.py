"""What a reproduction is: a published result, the runs that test it, and what counts as success.

    REPRODUCTION = Reproduction(
        name="mqar_attention",
        said="Attention behind a short convolution recalls.",
        ...
        arms={"attention": {"model.mixer": "attention"}},
        criteria=(Criterion("at least half of the runs solve it", lambda found: ...),),
    )

Learning rates are chosen on selection seeds and validation data; what is reported are fresh seeds
and test data.
"""

import enum
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from configs import probes
from seqarch.errors import UserError
from seqarch.records import Results
from seqarch.stats.fit_rate import FitRate, fisher_exact, fit_rate
from seqarch.stats.learning_rates import Window, choose_learning_rate, learning_rate_window

EVALUATOR = "accuracy"  # of the records that are kept
SEARCH, RUN = "search", "run"  # kinds of sources: runs that chose a learning rate, and fresh ones
FIRST_SELECTION_SEED = 1000  # those of fresh runs are 0, 1, ...


class Tier(enum.StrEnum):
    """What a reproduction takes."""

    CPU = "cpu"  # meant for less than an hour on two cores
    HOURS = "hours"  # the same for some hours
    ACCELERATOR = "accelerator"


class Status(enum.StrEnum):
    REPRODUCED = "reproduced"
    PARTLY = "partly"
    FAILED = "not reproduced"
    OPEN = "not run"


class Measure(NamedTuple):
    """A number of each run that is reported.

    Attributes:
      title: its name in tables.
      metric: that of the accuracy evaluator.
      at: what it is measured at.
    """

    title: str
    metric: str = "accuracy"
    at: Mapping[str, Any] = {}


ACCURACY = Measure("accuracy")


def beyond(length: int) -> Measure:
    """Returns the accuracy at rows of `length` tokens, at positions beyond those of training."""
    return Measure(f"accuracy @ {length:,}", "length_accuracy", {"context": length})


class Outcomes:
    """The results of a reproduction's runs.

    Args:
      results: those of all runs; members are the names of arms.
    """

    def __init__(self, results: Sequence[Results]):
        self._results = results

    def runs(self, arm: str, kind: str = RUN) -> list[Results]:
        """Returns the runs of an arm, the fresh ones or those of the search."""
        named = (each for each in self._results if each.source.member == arm)
        return [each for each in named if each.source.kind == kind]

    def scores(self, arm: str, measure: Measure = ACCURACY) -> list[float | None]:
        """Returns the score of each fresh run; None where it diverged.

        Raises:
          UserError: where the arm has none.
        """
        found = [_score(each, measure) for each in self.runs(arm)]
        if not found:
            raise UserError(f"{arm} has no runs")
        return found

    def median(self, arm: str, measure: Measure = ACCURACY) -> float:
        """Returns the median score, in which a diverged run counts as 0."""
        return statistics.median(score or 0.0 for score in self.scores(arm, measure))

    def fit_rate(self, arm: str, measure: Measure = ACCURACY) -> FitRate:
        """Returns how many fresh runs solve the task."""
        return fit_rate(self.scores(arm, measure), self.solved(arm))

    def solved(self, arm: str) -> float:
        """Returns the accuracy from which on the arm's task counts as solved.

        Raises:
          UserError: where no run has it, since all diverged.
        """
        runs = self.runs(arm) + self.runs(arm, SEARCH)
        found = (each.value(EVALUATOR, "solved") for each in runs)
        solved = next((value for value in found if value is not None), None)
        if solved is None:
            raise UserError(f"all runs of {arm} diverged")
        return solved

    def search(self, arm: str) -> dict[float, list[float | None]]:
        """Returns the scores of the selection seeds by learning rate."""
        found: dict[float, list[float | None]] = {}
        for each in self.runs(arm, SEARCH):
            lr = each.source.config["optim"]["lr"]
            found.setdefault(lr, []).append(_score(each, ACCURACY))
        return found

    def learning_rate(self, arm: str) -> float | None:
        """Returns the learning rate that the search chooses; None where it has no run."""
        found = self.search(arm)
        return choose_learning_rate(found, self.solved(arm)) if found else None

    def window(self, arm: str) -> Window | None:
        """Returns the window of learning rates in which at least half of the seeds fit."""
        return learning_rate_window(self.search(arm), self.solved(arm))


def _score(run: Results, measure: Measure) -> float | None:
    return run.value(EVALUATOR, measure.metric, **measure.at)


class Criterion(NamedTuple):
    """A part of what counts as reproduced, which is set before the runs.

    Attributes:
      words: says it.
      holds: returns whether the outcomes have it; raises UserError where they do not say.
    """

    words: str
    holds: Callable[[Outcomes], bool]


def solves(arm: str, words: str = "solve it", measure: Measure = ACCURACY) -> Criterion:
    """Returns the criterion that most of an arm's runs solve the task, which `words` say."""
    return Criterion(
        f"{arm}: at least 8 of 10 runs {words}",
        lambda found: found.fit_rate(arm, measure).rate >= 0.8,
    )


def more_solve(one: str, other: str, words: str) -> Criterion:
    """Returns the criterion that more runs of one arm than of another solve the task."""

    def holds(found: Outcomes) -> bool:
        rates = found.fit_rate(one), found.fit_rate(other)
        return rates[0].rate > rates[1].rate and fisher_exact(*rates) < 0.05

    return Criterion(f"{words}, by Fisher's exact test (p < 0.05)", holds)


def probe_config(
    argument: str, fields: Mapping[str, Any] = {}
) -> Callable[[], ml_collections.ConfigDict]:
    """Returns what makes the config of configs/probes.py with other values of dotted fields."""

    def make() -> ml_collections.ConfigDict:
        config = probes.get_config(argument)
        config.update_from_flattened_dict(fields)
        return config

    return make


class Reproduction(NamedTuple):
    """A published result and its test.

    Attributes:
      name: that of its module, its runs and its records.
      said: the result, in one sentence.
      source: paper and section.
      published: its numbers, in words.
      setting: how the runs differ from the source's.
      tier: what they take.
      config: returns the config that all runs share.
      arms: the fields of the config that differ between what is compared, by name.
      criteria: what counts as reproduced.
      measures: numbers that are reported.
      lrs: learning rates; of several, each arm's is chosen on selection seeds.
      selection_seeds: runs of each arm at each learning rate.
      seeds: fresh runs of each arm, at the chosen learning rate.
      explained: why the runs differ from the source, where they do.
    """

    name: str
    said: str
    source: str
    published: str
    setting: str
    tier: Tier
    config: Callable[[], ml_collections.ConfigDict]
    arms: Mapping[str, Mapping[str, Any]]
    criteria: Sequence[Criterion]
    measures: Sequence[Measure] = (ACCURACY,)
    lrs: Sequence[float] = (3e-3,)
    selection_seeds: int = 2
    seeds: int = 10
    explained: str = ""

    @property
    def searches(self) -> bool:
        """Whether learning rates are chosen."""
        return len(self.lrs) > 1

    def judge(self, found: Outcomes) -> tuple[Status, list[bool]]:
        """Returns the verdict, and which criteria hold.

        Raises:
          UserError: where runs are missing.
        """
        holds = [each.holds(found) for each in self.criteria]
        if all(holds):
            return Status.REPRODUCED, holds
        return (Status.PARTLY if any(holds) else Status.FAILED), holds
