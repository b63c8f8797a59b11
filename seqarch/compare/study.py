"""A member's part in a comparison: a learning rate is chosen for it, then it is trained and
measured for each seed.
"""

import dataclasses
import math
from pathlib import Path

from seqarch import tasks
from seqarch.compare import execution
from seqarch.compare.learning_rate import search
from seqarch.compare.spec import ComparisonSpec
from seqarch.config import Config, to_dict
from seqarch.evals import evaluator
from seqarch.records import Record, Results, Source
from seqarch.report.members import Member
from seqarch.runtime.progress import Progress


@dataclasses.dataclass(frozen=True)
class Study:
    """Of the member `name`.

    config: with the model matched; directory: of the comparison's runs
    Each method takes what of its runs is there already.
    """

    name: str
    config: Config
    spec: ComparisonSpec
    directory: Path

    def check(self) -> None:
        """Raises UserError where a directory holds another run than the first of these."""
        for lr in self.spec.lrs:
            execution.check(self._search_run(lr), execution.with_choice(self.config, lr=lr))
        if not self.spec.lrs:
            for seed, config in self.seeded(self.config).items():
                execution.check(self.seed_run(seed), config)

    def left(self) -> int:
        """Runs to be trained or measured still, where the search need not go beyond its grid."""
        searched = sum(
            not execution.finished(self._search_run(lr), self.config) for lr in self.spec.lrs
        )
        return searched + sum(self._unmeasured(seed) for seed in self.spec.seeds)

    def _unmeasured(self, seed: int) -> bool:
        """Whether a seed's run has records missing; its learning rate is the one it was trained
        with.
        """
        run, config = self.seed_run(seed), execution.with_choice(self.config, seed=seed)
        if (run / "config.json").exists():
            config = execution.with_choice(config, lr=execution.rundir.stored_config(run).optim.lr)
        return bool(
            execution.missing(execution.find(run, config, self.spec.split), self._evaluators(seed))
        )

    def is_trained(self) -> bool:
        """Whether nothing is left to train: every seed came to its end, or one diverged, which ends
        the study.
        """
        runs = [self.seed_run(seed) for seed in self.spec.seeds]
        ended = any(execution.diverged(run, self.config) for run in runs)
        return ended or all(execution.finished(run, self.config) for run in runs)

    def train(self) -> None:
        """Trains and scores all its runs, which may go on beside others; `measure` will ask for
        more of the first.
        """
        progress = Progress(self.left())
        config = self._choose(progress)[0]
        for seed, each in self.seeded(config).items():
            self._measured(seed, each, scores(config), progress)

    def measure(self, progress: Progress) -> Member:
        """Returns the member with its records: scores of each seed, what a program needs of the
        first.
        """
        config, found = self._choose(progress)
        results = tuple(
            self._measured(seed, each, self._evaluators(seed), progress)
            for seed, each in self.seeded(config).items()
        )
        named = tuple(
            each._replace(source=dataclasses.replace(each.source, member=self.name))
            for each in results
        )
        return Member(self.name, "run", named, self._search_results(config, found))

    def seeded(self, config: Config) -> dict[int, Config]:
        """`config` for each seed."""
        return {seed: execution.with_choice(config, seed=seed) for seed in self.spec.seeds}

    def seed_run(self, seed: int) -> Path:
        return self.directory / self.name / f"seed-{seed}"

    def _search_results(self, config: Config, found: dict[float, float]) -> Results | None:
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
        """The config with the best learning rate, and the score of each."""
        if not self.spec.lrs:
            return self.config, {}
        lr, found = search(self.spec.lrs, lambda lr: self._validated(lr, progress))
        return execution.with_choice(self.config, lr=lr), found

    def _validated(self, lr: float, progress: Progress) -> float:
        """One point of the search, from the config's own seed, which is none of those that are
        reported.
        """
        run, config = self._search_run(lr), execution.with_choice(self.config, lr=lr)
        progress.total += lr not in self.spec.lrs and not execution.finished(run, config)
        progress.begin(f"{self.name}, learning rate {lr:g}")
        return execution.validated(run, config, progress)

    def _measured(
        self, seed: int, config: Config, only: tuple[str, ...], progress: Progress
    ) -> Results:
        progress.begin(f"{self.name}, seed {seed}")
        return execution.measured(self.seed_run(seed), config, self.spec.split, only, progress)

    def _evaluators(self, seed: int) -> tuple[str, ...]:
        """Scores are of every seed; what a program needs is measured for the first."""
        return tuple(self.config.evals) if seed == self.spec.seeds[0] else scores(self.config)

    def _search_run(self, lr: float) -> Path:
        return self.directory / self.name / f"lr-{lr:g}"


def scores(config: Config) -> tuple[str, ...]:
    """The evaluators of a config whose values are means over seeds."""
    return tuple(name for name in config.evals if evaluator.find(name).over_seeds)
