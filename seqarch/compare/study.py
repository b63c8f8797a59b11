"""Study: chooses a member's learning rate, then trains and measures it for each seed."""

import dataclasses
import math
from pathlib import Path

from seqarch import tasks
from seqarch.compare import execution
from seqarch.compare.deadline import Deadline
from seqarch.compare.learning_rate import search
from seqarch.compare.sizes import Rung
from seqarch.compare.spec import ComparisonSpec
from seqarch.config import Config, to_dict
from seqarch.errors import Diverged
from seqarch.evals import evaluator
from seqarch.records import Record, Results, Source
from seqarch.report.members import LADDER, Member
from seqarch.report.origin_tables import MATCHING
from seqarch.runtime.progress import Progress
from seqarch.tasks.probe import Probe
from seqarch.training import rundir


@dataclasses.dataclass(frozen=True)
class Study:
    """The runs of one member of a comparison.

    Runs that are finished already are taken as they are.

    Attributes:
      name: the member's name.
      config: its config, with the model matched.
      spec: the comparison.
      directory: that of the comparison's runs.
      deadline: the time until which runs are begun.
      rung: the member and the size, where members are compared at several sizes.
    """

    name: str
    config: Config
    spec: ComparisonSpec
    directory: Path
    deadline: Deadline = Deadline()
    rung: Rung | None = None

    def check(self) -> None:
        """Raises UserError where the directory of one of its first runs holds another run."""
        for lr in self.spec.lrs:
            execution.check(self._search_run(lr), execution.with_choice(self.config, lr=lr))
        if not self.spec.lrs:
            for seed, config in self.seeded(self.config).items():
                execution.check(self.seed_run(seed), config)

    def left(self) -> int:
        """Returns the number of runs that remain, if the search stays within its grid."""
        searches = map(self._search_run, self.spec.lrs)
        searched = sum(not execution.finished(run, self.config) for run in searches)
        return searched + sum(self._unmeasured(seed) for seed in self.spec.seeds)

    def _unmeasured(self, seed: int) -> bool:
        """Returns whether records of a seed's run are missing.

        Its learning rate is the one that it was trained with.
        """
        if seed in self._failures():
            return False
        run, config = self.seed_run(seed), execution.with_choice(self.config, seed=seed)
        if before := rundir.config_before(run):
            config = execution.with_choice(config, lr=before.optim.lr)
        known = execution.find(run, config, self.spec.split)
        return bool(execution.missing(known, self._evaluators(seed)))

    def is_trained(self) -> bool:
        """Returns whether nothing is left to train.

        Every seed was then trained to its end, or one diverged, which ends the study of a text.
        """
        runs = [self.seed_run(seed) for seed in self.spec.seeds]
        diverged = any(execution.diverged(run, self.config) for run in runs)
        ended = diverged and not self._counts_failures
        return ended or all(execution.finished(run, self.config) for run in runs)

    def train(self) -> None:
        """Trains all its runs and measures their scores, which may happen beside other studies."""
        progress = Progress(self.left())
        config = self._choose(progress)[0]
        for seed, each in self.seeded(config).items():
            self._measured(seed, each, scores(config), progress)

    def measure(self, progress: Progress) -> Member:
        """Returns the member with the scores of each seed, and the program needs of the first."""
        config, found = self._choose(progress)
        results = []
        for seed, each in self.seeded(config).items():
            measured = self._measured(seed, each, self._evaluators(seed), progress)
            facts = {**measured.source.facts, MATCHING: {"match": self.spec.match}}
            if self.rung:
                facts[LADDER] = self.rung._asdict()
            results.append(measured.with_source(member=self.name, facts=facts))
        return Member(self.name, "run", tuple(results), self._search_results(config, found))

    def seeded(self, config: Config) -> dict[int, Config]:
        """Returns `config` with each of the seeds."""
        return {seed: execution.with_choice(config, seed=seed) for seed in self.spec.seeds}

    def seed_run(self, seed: int) -> Path:
        """Returns the directory of a seed's run."""
        return self.directory / self.name / f"seed-{seed}"

    def _search_results(self, config: Config, found: dict[float, float]) -> Results | None:
        """Returns the scores of the search as records; None where there was no search."""
        if not found:
            return None
        records = []
        score = tasks.find(config.task).score
        for lr, value in found.items():
            reached = dict(value=value if score.lower else -value)
            ended = reached if math.isfinite(value) else dict(status="diverged")
            records.append(Record("search", score.metric, at={"lr": lr}, **ended))
        seeds = dict(model=self.config.seed.model, data=self.config.seed.data)
        source = Source(self.name, "search", to_dict(config), config.steps, "validation", seeds)
        return Results(source, tuple(records))

    def _choose(self, progress: Progress) -> tuple[Config, dict[float, float]]:
        """Returns the config with the best learning rate, and the score of each one."""
        if not self.spec.lrs:
            return self.config, {}
        lr, found = search(self.spec.lrs, lambda lr: self._validated(lr, progress))
        return execution.with_choice(self.config, lr=lr), found

    def _validated(self, lr: float, progress: Progress) -> float:
        """Returns the score of a learning rate, from the config's seed, which is not reported."""
        run, config = self._search_run(lr), execution.with_choice(self.config, lr=lr)
        if not execution.finished(run, config):
            self.deadline.check()
            progress.total += lr not in self.spec.lrs
        progress.begin(f"{self.name}, learning rate {lr:g}")
        return execution.validated(run, config, progress)

    def _measured(
        self, seed: int, config: Config, only: tuple[str, ...], progress: Progress
    ) -> Results:
        run = self.seed_run(seed)
        if execution.missing(execution.find(run, config, self.spec.split), only):
            self.deadline.check()
        progress.begin(f"{self.name}, seed {seed}")
        try:
            return execution.measured(run, config, self.spec.split, only, progress)
        except Diverged as error:
            if not self._counts_failures:
                raise
            progress.say(str(error))
            progress.end()
            return execution.failure(run, config, self.spec.split)

    @property
    def _counts_failures(self) -> bool:
        """Whether a diverged seed is one of several outcomes: that of a probe's fit rate."""
        return len(self.spec.seeds) > 1 and issubclass(tasks.find(self.config.task), Probe)

    def _failures(self) -> list[int]:
        """Returns the seeds that have diverged and count as failures."""
        if not self._counts_failures:
            return []
        runs = {seed: self.seed_run(seed) for seed in self.spec.seeds}
        return [seed for seed, run in runs.items() if execution.diverged(run, self.config)]

    def _evaluators(self, seed: int) -> tuple[str, ...]:
        """Returns the evaluators of a seed: those of scores, and all for the first one.

        Where that has diverged and counts as a failure, it is the next one.
        """
        failures = self._failures()
        first = next((each for each in self.spec.seeds if each not in failures), None)
        return tuple(self.config.evals) if seed == first else scores(self.config)

    def _search_run(self, lr: float) -> Path:
        return self.directory / self.name / f"lr-{lr:g}"


def scores(config: Config) -> tuple[str, ...]:
    """Returns the evaluators of a config whose values are means over seeds."""
    return tuple(name for name in config.evals if evaluator.find(name).over_seeds)
