"""Whether a run trains and serves on a target, how, at what speed at most, and what limits it.

Memory comes from compilations (seqarch.costs.spec), speed from a roofline (Williams et al. 2009,
"Roofline: an insightful visual performance model for multicore architectures"): no program is
faster than its FLOPs at the chip's peak, nor than the bytes that it must read at the memory's
bandwidth.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from seqarch.config import Config
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.devices import Placement
from seqarch.costs.limits import MOST, memory_of, most_sequences, needed, without_rows
from seqarch.costs.memory import Measurement
from seqarch.costs.search import Largest, largest
from seqarch.costs.spec import Failed, Outcome, ProgramSpec
from seqarch.errors import NoResult
from seqarch.model import count_parameters

Change = dict[str, int]  # fields of a config that change together, by their dotted names
PARTS = ("parameters", "optimizer", "state", "working")


class Way(NamedTuple):
    """One way to train: what it changes of the config, in words; outcome: of the config's batch."""

    change: str
    config: Config
    outcome: Outcome

    @property
    def fits(self) -> bool:
        return isinstance(self.outcome, Measurement) and self.outcome.fits


class Training(NamedTuple):
    """tried: ways from the cheapest on, up to the first that fits, then without what that one may
    not need

    way: that fits with the fewest changes, or else the last; rows: its largest batch
    Where the devices do not divide the config's batch, that of all ways is the next that they do.
    """

    tried: list[Way]
    way: Way
    rows: Largest


class Serving(NamedTuple):
    """sequences: that fit at once, none where the prompt of a single one does not

    capped: whether the search for more sequences ended there
    one, many: the decoding loop of one sequence, and of all of these; prefill: a segment of one
      sequence's prompt
    halfway, many_halfway: the same with half of the context, as it is on average, and of all
      sequences' prompts at once
    """

    sequences: int
    capped: bool
    one: Outcome
    many: Outcome
    prefill: Outcome
    halfway: Outcome
    many_halfway: Outcome


class Bound(NamedTuple):
    """tokens: per second at most, of all chips together; limit: "bandwidth" or "compute"."""

    tokens: float
    limit: str


def plan_training(
    cache: MeasurementCache, config: Config, placement: Placement, context: int
) -> Training:
    """Tries ways to train `config.batch` rows of `context` tokens until one fits; then the largest
    batch of that way.
    """
    tried: list[Way] = []
    unit = placement.count * config.optim.accumulate
    config = dataclasses.replace(config, batch=-(-config.batch // unit) * unit)

    def fits(changes: Sequence[Change]) -> bool:
        change = (
            ", ".join(f"{name}={value}" for each in changes for name, value in each.items())
            or "as configured"
        )
        way = _changed(config, changes)
        tried.append(
            Way(
                change,
                way,
                cache.measure(ProgramSpec(way, "train", way.batch, context, placement.name)),
            )
        )
        return tried[-1].fits

    changes = next((changes for changes in _ways(config, placement.count) if fits(changes)), ())
    way = tried[-1]
    for change in changes[:-1]:
        if fits(fewer := [each for each in changes if each is not change]):
            changes, way = fewer, tried[-1]
    unit, memory = (
        placement.count * way.config.optim.accumulate,
        _memory([each.outcome for each in tried]),
    )
    total = lambda n: needed(
        cache.measure(ProgramSpec(way.config, "train", n * unit, context, placement.name))
    )
    known = without_rows(way.outcome) | {way.config.batch // unit: needed(way.outcome)}
    rows = largest(total, memory, known, MOST)
    return Training(tried, way, Largest(rows.size * unit, rows.beyond and rows.beyond * unit))


def _ways(config: Config, devices: int) -> Iterator[list[Change]]:
    """No change, then rematerialisation, parameters split over all devices, micro-batches, each
    with those before it.

    Accumulation ends at one row a device.
    """
    changes: list[Change] = []
    yield changes
    if not config.model.remat:
        yield (changes := [*changes, {"model.remat": True}])
    if devices > 1 and (config.mesh.data, config.mesh.fsdp) not in (
        (1, -1),
        (1, devices),
        (-1, devices),
    ):
        yield (changes := [*changes, {"mesh.data": 1, "mesh.fsdp": -1}])
    count = config.optim.accumulate
    counts = [
        n
        for n in range(count + 1, config.batch + 1)
        if config.batch % n == 0 and (config.batch // n) % devices == 0
    ]
    while (
        counts
    ):  # twice as many, or the next that divides the batch, until one row is left to a device
        count = next((n for n in counts if n >= 2 * count), counts[-1])
        yield [*changes, {"optim.accumulate": count}]
        counts = [n for n in counts if n > count]


def _changed(config: Config, changes: Sequence[Change]) -> Config:
    for name, value in [pair for change in changes for pair in change.items()]:
        group, field = name.split(".")
        config = dataclasses.replace(
            config, **{group: dataclasses.replace(getattr(config, group), **{field: value})}
        )
    return config


def plan_serving(
    cache: MeasurementCache, config: Config, placement: Placement, context: int
) -> Serving:
    measure = lambda phase, rows, length: cache.measure(
        ProgramSpec(config, phase, rows, length, placement.name)
    )
    one, prefill = measure("decode", 1, context), measure("prefill", 1, context)
    _memory([one])
    served = all(isinstance(each, Measurement) and each.fits for each in (one, prefill))
    most = most_sequences(cache, config, placement.name, context) if served else None
    sequences, half = max(most.size if most else 0, int(served)), max(context // 2, 1)
    rows = max(sequences, 1)
    many = measure("decode", rows, context)
    capped = most is not None and most.beyond is None
    return Serving(
        sequences,
        capped,
        one,
        many,
        prefill,
        measure("prefill", 1, half),
        measure("prefill", rows, half),
    )


def bound(
    config: Config, placement: Placement, outcome: Outcome, tokens: int, *, unread: int = 1
) -> Bound | None:
    """Of a program that makes or reads `tokens` tokens; None where it failed or no data sheet tells
    of the target.

    The bytes are of state and parameters, each of which is read at least once, but for `unread`
    tables of the vocabulary: of the embedding a token reads a row, and prefill leaves out the
    unembedding as well. FLOPs are at the peak of bfloat16, which no wider type exceeds.
    """
    sheet = placement.target
    if isinstance(outcome, Failed) or not (sheet.bandwidth and sheet.flops):
        return None
    read = 1 - unread * config.model.vocab * config.model.dim / count_parameters(config.model)
    given = outcome.parameters * read + outcome.state
    reading = given * sheet.devices_per_chip / sheet.bandwidth
    computing = outcome.flops / (placement.chips * sheet.flops)
    return Bound(
        tokens / max(reading, computing), "bandwidth" if reading >= computing else "compute"
    )


def cost(placement: Placement, speed: Bound, price: float) -> float:
    """Of a million tokens at that speed, for the price of a chip and hour."""
    return 1e6 * price * placement.chips / (3600 * speed.tokens)


def largest_part(outcome: Outcome) -> str:
    """What takes most of the memory, in words; of a failed spec, why it has none."""
    if isinstance(outcome, Failed):
        return outcome.reason
    part = max(PARTS, key=lambda name: getattr(outcome, name))
    names = {
        "state": "the state",
        "working": "activations, gradients and other temporaries",
        "optimizer": "the optimizer",
    }
    return names.get(part, part)


def _memory(outcomes: list[Outcome]) -> int:
    memory = memory_of(outcomes)
    if memory is None:
        raise NoResult(f"nothing could be compiled: {outcomes[0].reason}")
    return memory
