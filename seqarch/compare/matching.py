"""Matches the number of parameters of models, by the width of their MLP or by their depth.

The count comes from the model itself, built abstractly. It is affine in the MLP's width, so two
widths determine it.
"""

import dataclasses

from seqarch.config import ModelConfig
from seqarch.errors import UserError
from seqarch.model import count_parameters
from seqarch.patterns import parse_pattern

TOLERANCE = 0.01  # relative error of the number of parameters
DEPTH_TOLERANCE = 0.1  # the same for depth, which is coarser
MULTIPLES = (128, 8, 1)  # of which widths are: lanes and sublanes of an accelerator, and any


def match_parameters(model: ModelConfig, target: int) -> ModelConfig:
    """Returns `model` with the MLP width that gives it `target` parameters, within TOLERANCE.

    A multiple of 128 or of 8 is preferred where it stays within half the tolerance, since it suits
    accelerators and sharding.

    Raises:
      UserError: where no width is close enough.
    """
    smallest, second = (count_parameters(dataclasses.replace(model, mlp=width)) for width in (1, 2))
    slope = second - smallest
    exact = 1 + (target - smallest) / slope
    for multiple in MULTIPLES:
        width = multiple * round(exact / multiple)
        error = abs(width - exact) * slope / target
        if width >= 1 and error <= TOLERANCE / (1 if multiple == 1 else 2):
            return dataclasses.replace(model, mlp=width)
    if smallest > target:
        raise UserError(
            f"{model.mixer!r} has {smallest:,} parameters at the narrowest MLP, more than the "
            f"{target:,} to match; make its mixers smaller, or raise the number to match"
        )
    raise UserError(
        f"{model.mixer!r} cannot come within {TOLERANCE:.0%} of {target:,} parameters: from "
        f"{smallest:,} each unit of model.mlp adds {slope:,}; make the model wider or the number "
        "to match larger"
    )


def match_depth(model: ModelConfig, target: int) -> ModelConfig:
    """Returns `model` with the number of layers that comes nearest to `target` parameters.

    Raises:
      UserError: where it does not come within DEPTH_TOLERANCE.
    """
    tried: dict[int, int] = {}
    shallowest = max(len(parse_pattern(pattern)) for pattern in model.patterns.values())
    growing = True
    while growing and (not tried or max(tried.values()) < target):
        layers = shallowest + len(tried)
        tried[layers] = count_parameters(dataclasses.replace(model, layers=layers))
        growing = tried[layers] > tried.get(layers - shallowest, 0)  # unless all layers are shared
    nearest = min(tried, key=lambda layers: abs(tried[layers] - target))
    if abs(tried[nearest] - target) > DEPTH_TOLERANCE * target:
        raise UserError(
            f"{model.mixer!r} with model.mlp={model.mlp} cannot come within {DEPTH_TOLERANCE:.0%} "
            f"of {target:,} parameters: {nearest} layers have {tried[nearest]:,}; give the member "
            "'layers' too, or another number to match"
        )
    return dataclasses.replace(model, layers=nearest)
