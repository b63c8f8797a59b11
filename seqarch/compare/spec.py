"""ComparisonSpec: what is compared, and how, as configs/compare.py gives it."""

import dataclasses
from typing import Any

from seqarch.compare.probe_spec import ProbeSpec, read_probes
from seqarch.config import Config, parse
from seqarch.errors import UserError, unknown

SEVERAL = ("members", "lrs", "seeds", "probe_members", "sizes")  # fields with several values


@dataclasses.dataclass(frozen=True)
class ComparisonSpec:
    """What a comparison compares.

    Attributes:
      name: the comparison's name.
      notice: says what its numbers are not evidence of; it stands in the report.
      reference: the layer pattern that all members are matched to (seqarch.compare.members).
      members: texts, each with a layer pattern (seqarch.compare.members). Without any, the probes
        alone are compared.
      lrs: learning rates from which each member chooses by its validation score; none: optim.lr.
      seeds: of initialisation and data order, with one run for each; data orders are paired across
        members.
      split: the held-out data that is scored.
      base: what all members share.
      match: what members have in common with the reference: "params", "state" or "flops".
      probes: tasks that test one ability each, beside the task of `base`.
      probe_members: names of members, or texts as in `members`, that get the probes; none: all
        members. Other members do not run them.
      sizes: texts "name; field=value; ...", each of which gives fields of `base` other values; the
        members are then compared at each size (seqarch.compare.sizes). None: at that of `base`.
    """

    name: str
    notice: str
    reference: str
    members: tuple[str, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    split: str
    base: Config
    match: str = "params"
    probes: tuple[ProbeSpec, ...] = ()
    probe_members: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()

    def __post_init__(self):
        for name in SEVERAL:
            given = getattr(self, name)
            if not isinstance(given, (tuple, list)):
                raise UserError(f"config.{name} is {given!r}; give several, as ({given!r},)")
        for name in ("probe_members", "sizes"):
            if bad := [each for each in getattr(self, name) if not isinstance(each, str)]:
                raise UserError(f"config.{name} has {bad[0]!r}; give texts, as for members")
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

    @property
    def only_probes(self) -> bool:
        """Whether there are probes, whose members are no members of the comparison."""
        return not self.members and bool(self.probes and self.probe_members)


# Fields of a comparison's config file, beside those of a run; those with a default may be left out.
FIELDS = {
    each.name: each.default is dataclasses.MISSING
    for each in dataclasses.fields(ComparisonSpec)
    if each.name != "base"
}


def read(given: dict[str, Any]) -> ComparisonSpec:
    """Reads the fields of a config file as a comparison.

    Raises:
      UserError: where a field is missing or wrong.
    """
    if missing := [name for name in FIELDS if FIELDS[name] and name not in given]:
        raise UserError(
            f"--config is no comparison: it has no {', '.join(missing)}; start from "
            "configs/compare.py"
        )
    base = parse({name: value for name, value in given.items() if name not in FIELDS})
    own = {name: given[name] for name in FIELDS if name in given}
    own["probes"] = read_probes(own.get("probes", ()))
    return ComparisonSpec(**own, base=base)
