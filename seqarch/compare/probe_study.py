"""ProbeStudy: chooses a member's learning rate for a probe, then trains and scores each seed."""

import dataclasses
import math
from pathlib import Path

from seqarch import tasks
from seqarch.compare import execution
from seqarch.compare.deadline import Deadline
from seqarch.compare.known import Known
from seqarch.compare.probe_spec import ProbeSpec
from seqarch.config import Config, to_dict
from seqarch.errors import Diverged, NoResult
from seqarch.records import Record, Results, Source
from seqarch.report.members import PROBE, PROBE_SEARCH
from seqarch.runtime.progress import Progress
from seqarch.stats.learning_rates import choose_learning_rate
from seqarch.tasks.base import ACCURACY

SPLIT = "test"  # the held-out rows that are reported


@dataclasses.dataclass(frozen=True)
class ProbeStudy:
    """The runs of one member on one probe.

    Runs that are finished already are taken as they are.

    Attributes:
      member: the member's name.
      config: its config on the probe.
      probe: the probe.
      directory: that of these runs.
      deadline: the time until which runs are begun.
      known: runs that were finished elsewhere.
    """

    member: str
    config: Config
    probe: ProbeSpec
    directory: Path
    deadline: Deadline = Deadline()
    known: Known = Known()

    @property
    def name(self) -> str:
        """The name that progress is reported under."""
        return f"{self.member}, {self.probe.title}"

    @property
    def runs(self) -> int:
        """The number of its runs."""
        return len(self._searches()) + len(self.probe.seeds)

    def check(self) -> None:
        """Raises UserError where the directory of one of its first runs holds another run."""
        runs = list(self._searches().values())
        if not runs:
            runs = [self._seed_run(seed, self.config.optim.lr) for seed in self.probe.seeds]
        for run, config in runs:
            if run.exists():
                execution.check(run, config)

    def left(self) -> int:
        """Returns the number of runs that are not finished."""
        if missing := len(self._searches()) - len(self._scores()):
            return missing + len(self.probe.seeds)
        try:
            lr = self._choose()
        except NoResult:
            return 0
        return sum(self._result(seed, lr) is None for seed in self.probe.seeds)

    def is_trained(self) -> bool:
        """Returns whether nothing is left to train or to score."""
        return self.left() == 0

    def train(self, progress: Progress | None = None) -> None:
        """Trains and scores all its runs.

        Args:
          progress: takes lines of progress; default: one of its own.

        Raises:
          NoResult: where training diverged at every learning rate, and at the deadline.
        """
        progress = progress or Progress(self.left())
        scores = self._scores()
        for (lr, seed), (run, config) in self._searches().items():
            if (lr, seed) not in scores:
                self.deadline.check()
                progress.begin(f"{self.name}, learning rate {lr:g}, seed {seed}")
                execution.validated(run, config, progress)
        lr = self._choose()
        for seed in self.probe.seeds:
            if self._result(seed, lr) is None:
                self.deadline.check()
                progress.begin(f"{self.name}, seed {seed}")
                self._measure(seed, lr, progress)

    def _measure(self, seed: int, lr: float, progress: Progress) -> None:
        run, config = self._seed_run(seed, lr)
        try:
            execution.measured(run, config, SPLIT, tuple(config.evals), progress)
        except Diverged as error:
            progress.say(str(error))
            progress.end()

    def results(self) -> list[Results]:
        """Returns the records of the runs that are finished, and of the search.

        Without any, the one record is that of a member that was not run, or that always diverged.
        """
        found, status = [], "not_run"
        if len(self._scores()) == len(self._searches()):
            try:
                lr = self._choose()
                found = [each for seed in self.probe.seeds if (each := self._result(seed, lr))]
            except NoResult:
                status = "diverged"
        found = found or [not_run(self.member, self.config, status)]
        return [labelled(each, self.member, self.probe) for each in (*found, *self._searched())]

    def _searched(self) -> list[Results]:
        """Returns the scores of the search so far; none where there are none."""
        made = []
        for (lr, seed), value in self._scores().items():
            ended = dict(value=value) if math.isfinite(value) else dict(status="diverged")
            made.append(Record("search", ACCURACY.metric, at={"lr": lr, "seed": seed}, **ended))
        config = to_dict(self.config)
        source = Source(self.member, PROBE_SEARCH, config, self.config.steps, "validation")
        return [Results(source, tuple(made))] if made else []

    def _choose(self) -> float:
        """Returns the learning rate that the search chooses, or the config's without a search.

        Raises:
          NoResult: where training diverged at each.
        """
        if not self.probe.lrs:
            return self.config.optim.lr
        scores: dict[float, list[float]] = {}
        for (lr, _), value in self._scores().items():
            scores.setdefault(lr, []).append(value)
        lr = choose_learning_rate(scores, tasks.find(self.config.task).solved)
        if lr is None:
            raise NoResult(f"training diverged at every learning rate of {self.probe.lrs}")
        return lr

    def _scores(self) -> dict[tuple[float, int], float]:
        """Returns the score of each finished run of the search; NaN where training diverged."""
        known, found = self.known.scores(self.config), {}
        for key, run in self._searches().items():
            if execution.finished(*run):
                value = -execution.last_score(*run)
                found[key] = value if math.isfinite(value) else math.nan
            elif key in known:
                found[key] = known[key]
        return found

    def _searches(self) -> dict[tuple[float, int], tuple[Path, Config]]:
        """Returns the directory and the config of each run that chooses the learning rate."""
        found = {}
        for lr in map(float, self.probe.lrs):
            for seed in self.probe.search_seeds:
                run = self.directory / f"lr-{lr:g}-seed-{seed}"
                found[lr, seed] = run, execution.with_choice(self.config, lr=lr, seed=seed)
        return found

    def _seed_run(self, seed: int, lr: float) -> tuple[Path, Config]:
        config = execution.with_choice(self.config, lr=lr, seed=seed)
        return self.directory / f"seed-{seed}", config

    def _result(self, seed: int, lr: float) -> Results | None:
        """Returns the records of a seed; None where it is not trained, or not scored."""
        run, config = self._seed_run(seed, lr)
        if execution.diverged(run, config):
            return execution.failure(run, config, SPLIT)
        own = execution.find(run, config, SPLIT)
        if execution.missing(own, tuple(config.evals)):
            return self.known.score(config, SPLIT)
        return own


def not_run(member: str, config: Config, status: str = "not_run") -> Results:
    """Returns the record of a member that has no score on a probe."""
    record = Record(ACCURACY.evaluator, ACCURACY.metric, status=status)
    return Results(Source(member, PROBE, to_dict(config), split=SPLIT), (record,))


def labelled(results: Results, member: str, probe: ProbeSpec) -> Results:
    """Returns records with the names of their member and of their probe."""
    facts = dict(results.source.facts) | {PROBE: dict(title=probe.title)}
    kind = PROBE if results.source.kind == "run" else results.source.kind
    return results.with_source(member=member, kind=kind, facts=facts)
