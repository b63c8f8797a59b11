"""What a family of models says of one: our layers, and the weights that their parameters are."""

from collections.abc import Callable
from typing import Any, NamedTuple

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
    """Returns a layer with options; those that are None are left out."""
    given = {name: value for name, value in options.items() if value is not None}
    return Layer(mixer, tuple(given.items()))
