"""A member's part in a comparison: a learning rate is chosen for it, then it is trained and measured for each seed."""

import dataclasses
import math
from pathlib import Path
from typing import Any

from seqarch.comparison import runs
from seqarch.comparison.evidence import SCORES, over_seeds
from seqarch.comparison.plan import Plan
from seqarch.comparison.progress import Progress
from seqarch.comparison.search import search
from seqarch.config import Config
from seqarch.measure.evaluate import EVALUATORS


@dataclasses.dataclass(frozen=True)
class Study:
    """Of the member `name`; config: with the model matched; directory: of the comparison's runs.

    Each method takes what of its runs is there already.
    """

    name: str
    config: Config
    plan: Plan
    directory: Path

    def check(self) -> None:
        """Raises UserError where a directory holds another run than the first of these."""
        for lr in self.plan.lrs:
            runs.check(self._searched(lr), runs.with_choice(self.config, lr=lr))
        if not self.plan.lrs:
            for seed, config in self.seeded(self.config).items():
                runs.check(self.seed_run(seed), config)

    def left(self) -> int:
        """Runs to be trained or measured still, where the search need not go beyond its grid."""
        searched = sum(not runs.finished(self._searched(lr), self.config) for lr in self.plan.lrs)
        known = {seed: runs.known(self.seed_run(seed), self.config, self.plan.split) for seed in self.plan.seeds}
        return searched + sum(bool(runs.missing(values, self._evaluators(seed))) for seed, values in known.items())

    def is_trained(self) -> bool:
        """Whether nothing is left to train: every seed came to its end, or one diverged, which ends the study."""
        directories = [self.seed_run(seed) for seed in self.plan.seeds]
        ended = any(runs.diverged(run, self.config) for run in directories)
        return ended or all(runs.finished(run, self.config) for run in directories)

    def train(self) -> None:
        """Trains and scores all its runs, which may go on beside others; `measure` will ask for more of the first."""
        progress = Progress(self.left())
        config = self._choose(progress)[0]
        for seed, each in self.seeded(config).items():
            self._measured(seed, each, SCORES, progress)

    def measure(self, progress: Progress) -> tuple[Config, dict[str, Any]]:
        """The config with the learning rate that was chosen, and values: scores over seeds, what a program needs of the first."""
        config, scores = self._choose(progress)
        by_seed = {
            seed: self._measured(seed, each, self._evaluators(seed), progress) for seed, each in self.seeded(config).items()
        }
        finite = {f"{lr:g}": score if math.isfinite(score) else None for lr, score in scores.items()}
        return config, over_seeds(by_seed) | dict(search=finite)

    def seeded(self, config: Config) -> dict[int, Config]:
        """`config` for each seed."""
        return {seed: runs.with_choice(config, seed=seed) for seed in self.plan.seeds}

    def seed_run(self, seed: int) -> Path:
        return self.directory / self.name / f"seed-{seed}"

    def _choose(self, progress: Progress) -> tuple[Config, dict[float, float]]:
        """The config with the best learning rate, and the score of each."""
        if not self.plan.lrs:
            return self.config, {}
        lr, scores = search(self.plan.lrs, lambda lr: self._validated(lr, progress))
        return runs.with_choice(self.config, lr=lr), scores

    def _validated(self, lr: float, progress: Progress) -> float:
        """One point of the search, from the config's own seed, which is none of those that are reported."""
        run, config = self._searched(lr), runs.with_choice(self.config, lr=lr)
        progress.total += lr not in self.plan.lrs and not runs.finished(run, config)
        progress.begin(f"{self.name}, learning rate {lr:g}")
        return runs.validated(run, config, progress)

    def _measured(self, seed: int, config: Config, only: tuple[str, ...], progress: Progress) -> dict[str, Any]:
        progress.begin(f"{self.name}, seed {seed}")
        return runs.measured(self.seed_run(seed), config, self.plan.split, only, progress)

    def _evaluators(self, seed: int) -> tuple[str, ...]:
        """Scores are of every seed; what a program needs is measured for the first."""
        return tuple(EVALUATORS) if seed == self.plan.seeds[0] else SCORES

    def _searched(self, lr: float) -> Path:
        return self.directory / self.name / f"lr-{lr:g}"
