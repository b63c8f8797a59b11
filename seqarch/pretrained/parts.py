"""How parameters of ours are made of weights by the names that they have in transformers.

`Linear` of torch is y = W x + b with W [out, in]; ours is x W + b with W [in, out].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Recipe(NamedTuple):
    """One parameter of ours.

    Attributes:
      names: the weights that it is made of.
      make: takes their arrays, in float32, and returns its array.
    """

    names: tuple[str, ...]
    make: Callable[..., np.ndarray] = lambda W: W


Parts = dict[str, Recipe]  # by the parameter's dotted name in a block, or in the model


def same(name: str) -> Recipe:
    """Returns the weight itself."""
    return Recipe((name,))


def transposed(name: str) -> Recipe:
    """Returns the transposed weight."""
    return Recipe((name,), lambda W: W.T)


def centred(name: str) -> Recipe:
    """Returns the scale of a norm that multiplies by 1 + W."""
    return Recipe((name,), lambda W: 1 + W)


def taps(name: str) -> Recipe:
    """Returns the weights [W, E] of a convolution of each channel, from [E, 1, W]."""
    return Recipe((name,), lambda W: W[:, 0].T)


def linear(ours: str, theirs: str, bias: bool = False) -> Parts:
    """Returns the kernel, and the bias where there is one, of a projection."""
    parts = {f"{ours}.kernel": transposed(f"{theirs}.weight")}
    return parts | ({f"{ours}.bias": same(f"{theirs}.bias")} if bias else {})


def rows(ours: str, theirs: str, first: int, last: int | None, bias: bool = False) -> Parts:
    """Returns a projection to the outputs [first, last) of another one; last=None: to its end."""
    parts = {f"{ours}.kernel": Recipe((f"{theirs}.weight",), lambda W: W[first:last].T)}
    if bias:
        parts[f"{ours}.bias"] = Recipe((f"{theirs}.bias",), lambda b: b[first:last])
    return parts


def side_by_side(ours: str, *theirs: str) -> Parts:
    """Returns a projection, with a bias, to the outputs of several ones, one after the other."""
    kernels, biases = (tuple(f"{name}.{kind}" for name in theirs) for kind in ("weight", "bias"))
    return {
        f"{ours}.kernel": Recipe(kernels, lambda *W: np.concatenate(W).T),
        f"{ours}.bias": Recipe(biases, lambda *b: np.concatenate(b)),
    }
