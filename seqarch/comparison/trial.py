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
class Trial:
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
        searched = sum(not runs.settled(self._searched(lr), self.config) for lr in self.plan.lrs)
        return searched + sum(not (self.seed_run(seed) / "eval.json").exists() for seed in self.plan.seeds)

    def trained(self) -> bool:
        return all(runs.settled(self.seed_run(seed), self.config) for seed in self.plan.seeds)

    def train(self) -> None:
        """Trains all its runs, and scores all but the first, which `measure` will ask for more; this may go on beside others."""
        progress = Progress(self.left())
        config, _ = self._choose(progress)
        first, *others = self.seeded(config).items()
        progress.begin(f"{self.name}, seed {first[0]}")
        runs.trained(self.seed_run(first[0]), first[1], progress)
        for seed, each in others:
            self._measured(seed, each, SCORES, progress)

    def measure(self, progress: Progress) -> tuple[Config, dict[str, Any]]:
        """The config with the learning rate that was chosen, and values: scores over seeds, what a program needs of the first."""
        config, scores = self._choose(progress)
        by_seed: dict[int, dict[str, Any]] = {}
        for seed, each in self.seeded(config).items():
            by_seed[seed] = self._measured(seed, each, SCORES if by_seed else tuple(EVALUATORS), progress)
        finite = {f"{lr:g}": score if math.isfinite(score) else None for lr, score in scores.items()}
        return config, over_seeds(by_seed) | dict(search=finite)

    def seeded(self, config: Config) -> dict[int, Config]:
        return {seed: runs.with_choice(config, seed=seed) for seed in self.plan.seeds}

    def seed_run(self, seed: int) -> Path:
        return self.directory / self.name / f"seed-{seed}"

    def _choose(self, progress: Progress) -> tuple[Config, dict[float, float]]:
        if not self.plan.lrs:
            return self.config, {}
        lr, scores = search(self.plan.lrs, lambda lr: self._validated(lr, progress))
        return runs.with_choice(self.config, lr=lr), scores

    def _validated(self, lr: float, progress: Progress) -> float:
        """One point of the search, from the config's own seed, which is none of those that are reported."""
        run, config = self._searched(lr), runs.with_choice(self.config, lr=lr)
        progress.total += lr not in self.plan.lrs and not runs.settled(run, config)
        progress.begin(f"{self.name}, learning rate {lr:g}")
        return runs.validated(run, config, progress)

    def _measured(self, seed: int, config: Config, only: tuple[str, ...], progress: Progress) -> dict[str, Any]:
        progress.begin(f"{self.name}, seed {seed}")
        return runs.measured(self.seed_run(seed), config, self.plan.split, only, progress)

    def _searched(self, lr: float) -> Path:
        return self.directory / self.name / f"lr-{lr:g}"
