"""Families whose layers all recur: Mamba, Mamba-2."""

import math
from collections.abc import Iterator

from seqarch.costs.hf.fields import HFFields
from seqarch.costs.hf.layers import LayerSizes
from seqarch.costs.hf.parts import Mamba2Sizes, mamba


def mamba1(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Mamba."""
    width = fields.count("hidden_size", "d_model")
    part = mamba(
        width,
        fields.count("expand", default=2) * width,
        fields.count("state_size", default=16),
        rank(fields, "time_step_rank", width),
        fields.count("conv_kernel", default=4),
        fields.flag("use_bias", False),
        fields.flag("use_conv_bias", True),
    )
    for _ in range(fields.depth()):
        yield LayerSizes("mamba", part.params + width, states=part.states)


def mamba2(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Mamba-2.

    Raises:
      UserError: where the heads do not make up the inner width.
    """
    width, bias = fields.count("hidden_size"), fields.flag("use_bias", False)
    count, head = fields.count("num_heads"), fields.count("head_dim", default=64)
    inner = fields.count("expand", default=2) * width
    if inner != count * head:
        raise fields.error(
            f"num_heads is {count} and head_dim {head}; their product must be expand times "
            f"hidden_size, {inner}"
        )
    part = Mamba2Sizes(
        width,
        count,
        head,
        fields.count("n_groups", default=8),
        fields.count("state_size", default=128),
        fields.count("conv_kernel", default=4),
        bias,
        bias,
        fields.flag("use_conv_bias", True),
    ).part()
    for _ in range(fields.depth()):
        yield LayerSizes("mamba2", part.params + width, states=part.states)


def rank(fields: HFFields, name: str, width: int) -> int:
    """Returns the rank of Mamba's time steps, which "auto" makes a sixteenth of the width."""
    if fields.get(name) in (None, "auto"):
        return math.ceil(width / 16)
    return fields.count(name)
