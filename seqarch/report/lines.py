"""Models at several learning rates, which a report shows as one model each."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from seqarch.config import flatten
from seqarch.report.members import Member

RATE = "optim.lr"


class Line(NamedTuple):
    """A model at several learning rates.

    Attributes:
      name: that of its members, without their learning rates.
      task: what it was trained on.
      rates: its members by rising learning rate.
    """

    name: str
    task: str
    rates: Mapping[float, Member]


def rate_of(config: Mapping[str, Any]) -> float | None:
    """Returns the learning rate of a config; None where it has none."""
    return flatten(config).get(RATE)


def at_rate(name: str, rate: float) -> str:
    """Returns the name of a member that is a model at one of several learning rates."""
    return f"{name}, lr {rate:g}"


def line_name(member: Member) -> str:
    """Returns the name of a member without its learning rate."""
    rate = rate_of(member.config)
    return member.name if rate is None else member.name.removesuffix(at_rate("", rate))


def lines(models: Sequence[Member]) -> list[Line]:
    """Returns the models, each with its members by learning rate; none without a rate."""
    found: dict[tuple[str, str], dict[float, Member]] = {}
    for member in models:
        if (rate := rate_of(member.config)) is not None:
            key = line_name(member), member.config.get("task", "text")
            found.setdefault(key, {})[rate] = member
    return [Line(*key, dict(sorted(rates.items()))) for key, rates in found.items()]


def has_rates(models: Sequence[Member]) -> bool:
    """Returns whether any model was trained with several learning rates."""
    return any(len(line.rates) > 1 for line in lines(models))
