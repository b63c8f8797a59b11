"""The keys that a query sees, computed from positions and segments, so that no mask is stored."""

from typing import NamedTuple

from seqarch.types import Array, Bool, Int


class Places(NamedTuple):
    """The places of tokens.

    position: of a token in its document; -1 for an absent one
    segment: the number of its document
    """

    position: Int[Array, "B T"]
    segment: Int[Array, "B T"]


class Rule(NamedTuple):
    """Which keys of its document a query sees.

    causal: no key after it
    window: only keys less than `window` positions before it; None: all
    """

    causal: bool = True
    window: int | None = None


def visible(q: Places, k: Places, rule: Rule) -> Bool[Array, "B T S"]:
    """Returns whether each query sees each key: a present one of its segment that `rule` allows."""
    position, segment = k.position[:, None, :], k.segment[:, None, :]
    seen = (position >= 0) & (q.segment[:, :, None] == segment)
    if rule.causal:
        distance = q.position[:, :, None] - position
        seen = seen & (distance >= 0)
        if rule.window is not None:
            seen = seen & (distance < rule.window)
    return seen
