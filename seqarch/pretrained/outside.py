"""What a family of models says of one: our layers, and the weights that their parameters are."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from seqarch.mixers import resolve_mixer
from seqarch.patterns import Layer
from seqarch.pretrained.parts import Parts


class Outside(NamedTuple):
    """A model as its family describes it.

    Attributes:
      layers: our mixers, from the bottom up.
      model: further fields of ModelConfig.
      block: the parts of a block, by its number.
      around: the parts outside of blocks.
      spare: beginnings and ends of names of weights that are not read, since others stand for them.
    """

    layers: tuple[Layer, ...]
    model: dict[str, Any]
    block: Callable[[int], Parts]
    around: Parts
    spare: tuple[str, ...] = ()


def layer(mixer: str, **options: Any) -> Layer:
    """Returns a layer with those options that differ from the mixer's defaults."""
    defaults = inspect.signature(resolve_mixer(mixer).__init__).parameters
    given = {name: value for name, value in options.items() if value != defaults[name].default}
    return Layer(mixer, tuple(given.items()))
