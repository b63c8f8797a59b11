"""Makes the parameters of a model of the weights of one from outside, one array at a time."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from seqarch.config import ModelConfig
from seqarch.errors import UserError
from seqarch.model import abstract_model
from seqarch.pretrained.outside import Outside
from seqarch.pretrained.parts import Recipe
from seqarch.training.checkpoint import named

PREFIX = "model."  # of the names in a checkpoint


def filled(
    config: ModelConfig, outside: Outside, weights: Mapping[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    """Returns the parameters of a model by their names in a checkpoint, in float32.

    Args:
      config: of the model.
      outside: how they are made of weights.
      weights: the weights by name; each is read when it is needed.
      where: the weights' place, which errors name.

    Raises:
      UserError: for a weight that is missing, is left over, is not finite, or has another shape
        than the config makes.
    """
    stack = config.stack
    width, blocks = len(stack.period), [outside.block(index) for index in range(config.layers)]
    read: set[str] = set()

    def made(part: Recipe, shape: tuple[int, ...]) -> np.ndarray:
        read.update(part.names)
        return _make(part, shape, weights, where)

    arrays = {}
    for name, leaf in named(abstract_model(config)).items():
        kind, *inner = name.split(".", 2)
        if kind not in ("period", "tail"):
            arrays[PREFIX + name] = made(outside.around[name], leaf.shape)
            continue
        place, parameter = int(inner[0]), inner[1]
        if kind == "tail":
            part = blocks[stack.repeats * width + place][parameter]
            arrays[PREFIX + name] = made(part, leaf.shape)
            continue
        arrays[PREFIX + name] = array = np.empty(leaf.shape, np.float32)
        for repeat in range(stack.repeats):
            part = blocks[repeat * width + place][parameter]
            array[repeat] = made(part, leaf.shape[1:])
    _check_left(weights.keys() - read, outside.spare, where)
    return arrays


def _make(
    part: Recipe, shape: tuple[int, ...], weights: Mapping[str, np.ndarray], where: str
) -> np.ndarray:
    """Returns one parameter.

    Raises:
      UserError: where a weight is missing, has another shape, or is not finite in float32.
    """
    given = []
    for name in part.names:
        if name not in weights:
            raise UserError(f"{where} has no weight {name}, which its config.json needs")
        with np.errstate(over="ignore"):
            given.append(weights[name].astype(np.float32))
        if not np.isfinite(given[-1]).all():
            raise UserError(
                f"{where} has numbers in {name} that are not finite in float32; copy its weights "
                "again, or give another model"
            )
    try:
        array: Any = np.ascontiguousarray(part.make(*given))
    except (ValueError, IndexError):
        array = None
    if array is None or array.shape != shape:
        shapes = " and ".join(str(list(each.shape)) for each in given)
        raise UserError(
            f"{where} has {' and '.join(part.names)} of shape {shapes}, which do not make the "
            f"{list(shape)} of its config.json; give the files of one model"
        )
    return array


def _check_left(names: set[str], spare: tuple[str, ...], where: str) -> None:
    """Raises UserError for weights that were not read, unless others stand for them."""
    left = sorted(name for name in names if not name.endswith(spare or ("\0",)))
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise UserError(
            f"{where} has weights that its config.json does not tell of: {left[0]}{more}; give "
            "the files of one model"
        )
