"""The layers of a model as data: how many parameters each has, and what it keeps of a sequence."""

from collections.abc import Iterable
from typing import NamedTuple

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MXFP4_BLOCK = 32  # numbers of 4 bits that share a scale of one byte


class StateArray(NamedTuple):
    """An array of a layer's state whose size does not depend on the context.

    Attributes:
      name: what it is.
      elements: of one sequence.
      dtype: a name in DTYPE_BYTES; "" is that of the model.
    """

    name: str
    elements: int
    dtype: str = ""


class LayerSizes(NamedTuple):
    """A layer.

    Attributes:
      kind: what mixes its tokens, such as "attention", and what follows, such as "mlp".
      params: elements of its parameters, those of all experts included.
      cache: elements of the keys and values of one token; 0 without attention.
      window: tokens of which it keeps keys and values at most; None: of all.
      states: its arrays of constant size.
      mxfp4: elements of those parameters that are kept in MXFP4 (MXFP4_BLOCK).
    """

    kind: str
    params: int
    cache: int = 0
    window: int | None = None
    states: tuple[StateArray, ...] = ()
    mxfp4: int = 0

    def cached(self, context: int) -> int:
        """Returns the number of tokens whose keys and values it keeps at a context."""
        return context if self.window is None else min(self.window, context)

    def grows(self, context: int) -> bool:
        """Returns whether its cache still grows at a context."""
        return self.cache > 0 and (self.window is None or context < self.window)


class OutsideModel(NamedTuple):
    """A model that a config.json describes.

    Attributes:
      name: what it is called in tables: its model_type.
      layers: its layers.
      around: elements of the parameters outside of them: embeddings, head, last norm.
      dtype: that of parameters and caches, a name in DTYPE_BYTES.
      positions: tokens up to which its config says that it reads; None: it sets no bound.
      notes: sentences about what the config leaves open.
    """

    name: str
    layers: tuple[LayerSizes, ...]
    around: int
    dtype: str
    positions: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def params(self) -> int:
        """Elements of all parameters."""
        return self.around + sum(layer.params for layer in self.layers)

    @property
    def parameters_bytes(self) -> int:
        """Bytes of all parameters."""
        packed = sum(layer.mxfp4 for layer in self.layers)
        return self.bytes_of(self.params - packed) + packed // 2 + packed // MXFP4_BLOCK

    def bytes_of(self, elements: int, dtype: str = "") -> int:
        """Returns the bytes of elements of a dtype; "" is that of the model."""
        return elements * DTYPE_BYTES[dtype or self.dtype]

    def constant_bytes(self, layer: LayerSizes) -> int:
        """Returns the bytes of a layer's arrays of constant size."""
        return sum(self.bytes_of(each.elements, each.dtype) for each in layer.states)

    def growing_bytes(self, context: int) -> int:
        """Returns the bytes of the caches that still grow at a context."""
        return self._cache_bytes((each for each in self.layers if each.grows(context)), context)

    def state_bytes(self, context: int) -> int:
        """Returns the bytes that a sequence needs at a context."""
        constant = sum(self.constant_bytes(layer) for layer in self.layers)
        return constant + self._cache_bytes(self.layers, context)

    def unbounded_bytes(self, context: int) -> int:
        """Returns the bytes that a sequence needs where windows keep all tokens as well."""
        return self._replace(
            layers=tuple(layer._replace(window=None) for layer in self.layers)
        ).state_bytes(context)

    def _cache_bytes(self, layers: Iterable[LayerSizes], context: int) -> int:
        return sum(self.bytes_of(layer.cache * layer.cached(context)) for layer in layers)
