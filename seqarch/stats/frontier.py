"""The smallest state with which models solve a task of some size, from runs over many states.

A task's size is what makes it harder, such as the number of pairs that are to be recalled.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from seqarch.stats.fit_rate import median_score
from seqarch.stats.learning_rates import choose_learning_rate

REACHED = 0.9  # accuracy from which on a state is large enough


class Point(NamedTuple):
    """A run of a sweep over states.

    Attributes:
      mixer: what points are grouped by, such as "mamba".
      model: a text that differs between models of different widths or options.
      size: that of the task.
      state: bytes of one sequence's state.
      accuracy: on scored positions of held-out rows; None where training diverged.
      n: number of these positions; None where training diverged.
      lr: the learning rate.
      seed: that of the run.
    """

    mixer: str
    model: str
    size: float
    state: int
    accuracy: float | None
    n: int | None
    lr: float
    seed: int


class Reported(NamedTuple):
    """The runs of one model on a task of one size that count.

    Attributes:
      points: the runs with the chosen learning rate.
      fresh: whether the learning rate was chosen by runs of other seeds, or not at all.
    """

    points: tuple[Point, ...]
    fresh: bool

    @property
    def median(self) -> float:
        """The median accuracy; a diverged run counts as -inf."""
        return median_score([point.accuracy for point in self.points])


class SmallestState(NamedTuple):
    """The smallest state with which a task of some size is solved.

    Attributes:
      state: its bytes; the largest one that was tried where none is enough.
      reached: whether its median accuracy reaches the threshold.
      smallest_tried: whether no smaller state was tried, so that one may be enough too.
      runs: number of runs with this state.
    """

    state: int
    reached: bool
    smallest_tried: bool
    runs: int


def choose_runs(points: Sequence[Point]) -> list[Reported]:
    """Returns the runs that count, for each mixer, model and size of the task.

    Where several learning rates were tried, the lowest seed that has all of them chooses
    (`choose_learning_rate`), and the runs of all other seeds with that learning rate count. With no
    other seeds, the run that was chosen counts, which flatters the model.
    """
    cells: dict[tuple, list[Point]] = {}
    for point in points:
        cells.setdefault((point.mixer, point.model, point.size), []).append(point)
    return [_choose(cell) for cell in cells.values()]


def _choose(cell: Sequence[Point]) -> Reported:
    by_seed: dict[int, dict[float, Point]] = {}
    for point in cell:
        by_seed.setdefault(point.seed, {})[point.lr] = point
    rates = {point.lr for point in cell}
    if len(rates) == 1:
        return Reported(tuple(cell), True)
    selecting = min(by_seed, key=lambda seed: (-len(by_seed[seed]), seed))
    scores = {lr: [point.accuracy] for lr, point in by_seed[selecting].items()}
    lr = choose_learning_rate(scores, REACHED) or min(scores)
    others = [each[lr] for seed, each in by_seed.items() if seed != selecting and lr in each]
    return Reported(tuple(others or [by_seed[selecting][lr]]), bool(others))


def smallest_states(reported: Sequence[Reported]) -> dict[tuple[str, float], SmallestState]:
    """Returns the smallest state that is large enough, by mixer and size of the task.

    A state is large enough where the median accuracy of the runs of a model that keeps it is at
    least REACHED.
    """
    cells: dict[tuple[str, float], dict[int, Reported]] = {}
    for each in reported:
        mixer, size, state = (getattr(each.points[0], name) for name in ("mixer", "size", "state"))
        states = cells.setdefault((mixer, size), {})
        if state not in states or each.median > states[state].median:
            states[state] = each
    return {key: _smallest(states) for key, states in cells.items()}


def _smallest(states: Mapping[int, Reported]) -> SmallestState:
    enough = [state for state, each in states.items() if each.median >= REACHED]
    state = min(enough) if enough else max(states)
    return SmallestState(state, bool(enough), state == min(states), len(states[state].points))
