"""Changes of a config with which its train step needs less memory."""

from collections.abc import Iterator, Sequence

from seqarch.config import Config
from seqarch.config.values import with_fields

Change = dict[str, int]  # fields of a config that change together, by their dotted names


def change_text(changes: Sequence[Change]) -> str:
    """Returns changes as text, such as "model.remat=True"; "" where there are none."""
    pairs = [f"{name}={value}" for change in changes for name, value in change.items()]
    return ", ".join(pairs)


def candidate_changes(config: Config, devices: int) -> Iterator[list[Change]]:
    """Yields no change, then ever more: rematerialisation, sharded parameters, accumulation.

    Parameters are split over all devices. Accumulation ends at one row on each device.
    """
    changes: list[Change] = []
    yield changes
    if not config.model.remat:
        yield (changes := [*changes, {"model.remat": True}])
    sharded = ((1, -1), (1, devices), (-1, devices))
    if devices > 1 and (config.mesh.data, config.mesh.fsdp) not in sharded:
        yield (changes := [*changes, {"mesh.data": 1, "mesh.fsdp": -1}])
    count = config.optim.accumulate
    counts = [
        n
        for n in range(count + 1, config.batch + 1)
        if config.batch % n == 0 and (config.batch // n) % devices == 0
    ]
    while counts:  # twice as many, or the next number that divides the batch
        count = next((n for n in counts if n >= 2 * count), counts[-1])
        yield [*changes, {"optim.accumulate": count}]
        counts = [n for n in counts if n > count]


def apply_changes(config: Config, changes: Sequence[Change]) -> Config:
    """Returns a config with changes."""
    for change in changes:
        config = with_fields(config, change)
    return config
