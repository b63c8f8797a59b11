"""The options of attention's rotary positions that a config.json describes.

Older ones have `rope_theta` and `rope_scaling`, newer ones both in `rope_parameters`.
"""

import math
from typing import Any

from seqarch.costs.hf.fields import HFFields

THETA = 10_000.0  # base of the frequencies where a config has none, as in transformers
KINDS = ("default", "linear", "llama3", "yarn")


def rotary(fields: HFFields, share: float | None = None) -> dict[str, Any]:
    """Returns the options of attention: rope, rope_share, rope_scaling.

    Args:
      fields: the config.
      share: of a head's channels that are rotated, where the config does not say it; None: the
        family always rotates all.

    Raises:
      UserError: for frequencies that have no counterpart.
    """
    inner = fields.inner("rope_parameters", "rope_scaling")
    theta = inner.number("rope_theta", default=fields.number("rope_theta", default=THETA))
    outer = fields.number("partial_rotary_factor", default=share or 1.0)
    given = inner.number("partial_rotary_factor", default=outer)
    if share is None and given != 1:
        raise fields.error(f"partial_rotary_factor is {given}; this family rotates whole heads")
    return dict(rope=theta, rope_share=given, rope_scaling=_scaling(fields, inner))


def _scaling(fields: HFFields, inner: HFFields) -> str | None:
    """Returns the option rope_scaling; None where the frequencies are as they are."""
    kind = inner.choice("rope_type", "type", default="default", known=KINDS)
    if kind == "default":
        return None
    factor = inner.number("factor")
    if kind == "linear":
        return _text(kind, factor)
    trained = fields.number("original_max_position_embeddings", "max_position_embeddings")
    length = inner.number("original_max_position_embeddings", default=trained)
    if kind == "llama3":
        bounds = inner.number("low_freq_factor"), inner.number("high_freq_factor")
        return _text(kind, factor, *bounds, length)
    if not inner.flag("truncate", True):
        raise inner.error("truncate is false; YaRN has bounds at whole pairs alone here")
    turns = inner.number("beta_fast", default=32), inner.number("beta_slow", default=1)
    return _text(kind, factor, *turns, length, _magnitude(inner, factor))


def _magnitude(inner: HFFields, factor: float) -> float:
    """Returns what YaRN multiplies queries and keys by (Peng et al. 2023, section 3.4)."""

    def scaled(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1 if factor > 1 else 1.0

    default = scaled(1)
    if inner.get("mscale") and inner.get("mscale_all_dim"):
        default = scaled(inner.number("mscale")) / scaled(inner.number("mscale_all_dim"))
    return inner.number("attention_factor", default=default)


def _text(kind: str, *numbers: float) -> str:
    return ":".join([kind, *(f"{number:.12g}" for number in numbers)])
