"""Which keys a query sees, said by positions and segments alone; no mask is ever stored beyond a
block.
"""

from typing import NamedTuple

from seqarch.types import Array, Bool, Int


class Places(NamedTuple):
    """Where tokens stand: `position` in their document (-1: absent) and `segment`, the document's
    number.
    """

    position: Int[Array, "B T"]
    segment: Int[Array, "B T"]


class Rule(NamedTuple):
    """causal: no key after its query; window: only keys less than `window` positions before it,
    None for all.
    """

    causal: bool = True
    window: int | None = None


def visible(q: Places, k: Places, rule: Rule) -> Bool[Array, "B T S"]:
    """Key j is visible to query i iff it is present, of the same segment, and where the rule
    allows.
    """
    position, segment = k.position[:, None, :], k.segment[:, None, :]
    seen = (position >= 0) & (q.segment[:, :, None] == segment)
    if rule.causal:
        distance = q.position[:, :, None] - position
        seen = seen & (distance >= 0)
        if rule.window is not None:
            seen = seen & (distance < rule.window)
    return seen
