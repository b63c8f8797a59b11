"""What is compared, and how: the fields of configs/compare.py."""

import dataclasses
from typing import Any

from seqarch.config import Config, parse
from seqarch.errors import UserError, unknown


@dataclasses.dataclass(frozen=True)
class ComparisonSpec:
    """A comparison.

    notice: stands at every table and figure; it says what the numbers are not evidence of
    members, reference: see seqarch.compare.members
    lrs: the learning rates that each member may choose from, by its validation score; none:
      optim.lr as it is
    seeds: of initialisation and data order, one run for each; data orders are paired across members
    split: the held-out text that reported scores are of
    base: what all members share
    """

    name: str
    notice: str
    reference: str
    members: tuple[str, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    split: str
    base: Config

    def __post_init__(self):
        if bad := [lr for lr in self.lrs if not isinstance(lr, (int, float))]:
            raise UserError(f"config.lrs has {bad[0]!r}; give numbers")
        for seed in self.seeds:
            if not isinstance(seed, int) or not 0 <= seed < 2**32:
                raise UserError(f"config.seeds has {seed!r}; give whole numbers in [0, 2^32)")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"config.seeds is {self.seeds}; give at least one seed, and each once")
        if self.lrs and (
            len(self.lrs) < 2 or sorted(set(self.lrs)) != list(self.lrs) or self.lrs[0] <= 0
        ):
            raise UserError(
                f"config.lrs is {self.lrs}; give two or more rising learning rates, or none to "
                "take optim.lr"
            )
        if self.lrs and {self.base.seed.model, self.base.seed.data} & set(self.seeds):
            raise UserError(
                f"config.seeds {self.seeds} has the seed that learning rates are chosen with; "
                "give fresh ones"
            )
        if self.split not in ("validation", "test"):
            raise unknown("split", self.split, ("validation", "test"))


FIELDS = tuple(
    field.name for field in dataclasses.fields(ComparisonSpec) if field.name != "base"
)  # beside those of a run


def read(given: dict[str, Any]) -> ComparisonSpec:
    """Reads the config of a comparison; raises UserError where it is none."""
    if missing := [name for name in FIELDS if name not in given]:
        raise UserError(
            f"--config is no comparison: it has no {', '.join(missing)}; start from "
            "configs/compare.py"
        )
    base = parse({name: value for name, value in given.items() if name not in FIELDS})
    return ComparisonSpec(**{name: given[name] for name in FIELDS}, base=base)
