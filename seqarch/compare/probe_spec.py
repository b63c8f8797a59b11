"""ProbeSpec: a probe of a comparison, and the config that a member is trained with on it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from seqarch.compare.entries import check_given, parse_entry
from seqarch.config import Config, parse, to_dict
from seqarch.config.values import with_fields
from seqarch.errors import UserError, naming

Start = Callable[[str], Config]  # from "task,layer pattern" to the config of configs/probes.py

# Settings of a probe that are no fields of a run's config.
OWN = ("lrs", "search_seeds", "seeds", "lengths", "members")
# Fields of a run that a probe does not set, and where they come from.
GIVEN = {
    "task": "the probe itself",
    "model.mixer": "the member",
    "seed.model": "seeds",
    "seed.data": "seeds",
}
EVERY = 25  # steps between validations
ROWS = 512  # held-out rows that are scored
FAR = 2**20  # tokens, after which the state is measured, too
NO_FIELDS: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class ProbeSpec:
    """A probe of a comparison: a generated task that tests one ability of its members.

    Learning rates are chosen on validation rows, at the length of training, with seeds that are not
    reported; reported are `seeds` on test rows.

    Attributes:
      title: its column in tables, and its directory.
      task: a name in seqarch.tasks.TASKS with options.
      lrs: rising learning rates from which each member chooses; none: optim.lr.
      search_seeds: seeds with which it chooses.
      seeds: seeds that are reported.
      lengths: lengths of test rows beyond training. Where there are any, the longest is what the
        probe reports, and training goes on once the task is solved.
      members: names of the members that get it; none: all.
      fields: other values of a run's config than configs/probes.py gives, by dotted name.
    """

    title: str
    task: str
    lrs: tuple[float, ...] = ()
    search_seeds: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (1,)
    lengths: tuple[int, ...] = ()
    members: tuple[str, ...] = ()
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        about = f"the probe {self.title!r}"
        if not self.title.strip(".") or "/" in self.title:
            raise UserError(f"{about} has no name that a directory can have; write 'name = task'")
        for name in OWN:
            kind = dict(lrs=(int, float), members=str).get(name, int)
            if not _are(getattr(self, name), kind):
                raise UserError(
                    f"{about} has {name}={getattr(self, name)!r}; give several, as (1,)"
                )
        check_given(about, self.fields, GIVEN | ({"optim.lr": "lrs"} if self.lrs else {}))
        if any(one >= other for one, other in zip(self.lrs, self.lrs[1:])):
            raise UserError(f"{about} has lrs={self.lrs}; give rising learning rates")
        if not self.seeds or (self.lrs and not self.search_seeds):
            raise UserError(f"{about} has no seeds, or lrs without search_seeds; give some")
        for name in ("seeds", "search_seeds"):
            if len(set(given := getattr(self, name))) < len(given):
                raise UserError(f"{about} has {name}={given}; give each once")
        if self.lrs and set(self.seeds) & set(self.search_seeds):
            raise UserError(
                f"{about} has seeds={self.seeds} and search_seeds={self.search_seeds}; report "
                "seeds with which no learning rate was chosen"
            )

    def config(
        self, mixer: str, base: Config, start: Start, model: Mapping[str, Any] = NO_FIELDS
    ) -> Config:
        """Returns the config with which a layer pattern is trained on the probe.

        Args:
          mixer: the layer pattern.
          base: the comparison's config, whose machine and trackers it gets.
          start: returns what configs/probes.py gives.
          model: other values of fields than that gives, by dotted name.

        Raises:
          UserError: for an unknown field, for a value that a field refuses, and for lengths that
            are not beyond training.
        """
        with naming(f"the probe {self.title!r}"):
            return self._config(start(f"{self.task},{mixer}"), base, model)

    def _config(self, config: Config, base: Config, model: Mapping[str, Any]) -> Config:
        if any(length <= config.length for length in self.lengths):
            raise UserError(
                f"lengths are {self.lengths}; give lengths beyond the {config.length} tokens of "
                "training"
            )
        accuracy = dict(rows=ROWS, lengths=list(self.lengths))
        memory = dict(contexts=[max(self.lengths, default=config.length), FAR], compiled=[])
        made = to_dict(config) | dict(evals=dict(accuracy=accuracy, memory=memory))
        config = dataclasses.replace(parse(made), mesh=base.mesh, trackers=base.trackers)
        stops = {"eval.every": EVERY, "eval.stop_when_solved": not self.lengths}
        return with_fields(config, {**stops, **model, **self.fields})


def read_probes(texts: Sequence[str]) -> tuple[ProbeSpec, ...]:
    """Returns the probes of texts such as "recall = mqar(pairs=4); steps=300; seeds=(1, 2)".

    Raises:
      UserError: for a text that cannot be read, and for a name that occurs twice.
    """
    if not _are(texts, str):
        raise UserError(f"config.probes is {texts!r}; give tasks, such as ('parity', 'mqar')")
    found: dict[str, ProbeSpec] = {}
    for text in texts:
        name, task, settings, _ = parse_entry(text, "probe")
        own = {field: settings.pop(field) for field in OWN if field in settings}
        probe = ProbeSpec(name or task, task, **own, fields=settings)
        if probe.title in found:
            raise UserError(f"config.probes has {probe.title!r} twice; write 'name = {text}'")
        found[probe.title] = probe
    return tuple(found.values())


def _are(values: Any, kind: type | tuple[type, ...]) -> bool:
    is_several = isinstance(values, (tuple, list))
    return is_several and all(isinstance(each, kind) for each in values)
