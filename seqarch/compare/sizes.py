"""Members at several sizes, each size with equal parameters."""

from typing import NamedTuple

from seqarch.compare.entries import check_given, parse_entry
from seqarch.compare.members import match_members
from seqarch.compare.spec import ComparisonSpec
from seqarch.config import Config
from seqarch.config.values import with_fields
from seqarch.errors import UserError, naming

# Fields of a run that a size does not set, and where they come from.
GIVEN = {
    "task": "config.task",
    "model.mixer": "config.members",
    "seed.model": "config.seeds",
    "seed.data": "config.seeds",
}


class Rung(NamedTuple):
    """A member at one of several sizes.

    Attributes:
      member: the member's name.
      size: the name of the size.
    """

    member: str
    size: str


def sized_members(spec: ComparisonSpec) -> dict[str, tuple[Config, Rung | None]]:
    """Returns the config and the rung of each member at each size, by names such as "gru-small".

    Without sizes, members have the size of `spec.base` and no rung.

    Raises:
      UserError: for a size that cannot be, or is there twice, and as `match_members`.
    """
    if not spec.sizes:
        found = match_members(spec.base, spec.reference, spec.members, spec.match)
        return {name: (config, None) for name, config in found.items()}
    sized: dict[str, tuple[Config, Rung | None]] = {}
    for text in spec.sizes:
        name, size, settings, _ = parse_entry(text, "size")
        if name or not size:
            raise UserError(f"config.sizes has {text!r}; write 'small; model.dim=32'")
        if "/" in size:
            raise UserError(f"the size {size!r} has no name that a directory can have; leave out /")
        lrs = {"optim.lr": "config.lrs"} if spec.lrs else {}
        check_given(f"the size {size!r}", settings, GIVEN | lrs)
        with naming(f"the size {size!r}"):
            base = with_fields(spec.base, settings)
            found = match_members(base, spec.reference, spec.members, spec.match)
        for member, config in found.items():
            if (sized_name := f"{member}-{size}") in sized:
                raise UserError(f"config.sizes has {size!r} twice; give each size a name")
            sized[sized_name] = config, Rung(member, size)
    return sized
