"""The axis alphabet and the array aliases, declared once.

Einsum letters and shape annotations everywhere in seqarch obey this table:

    B  batch                T  time (tokens)         S  key slots (cache, keys)
    D  model width          F  inner width of MLP    W  convolution width
    H  heads                G  key/value heads       R  query heads per key/value head (H = G R)
    K  key channels         V  value channels        N  state channels of an SSM
    E  inner channels of an SSM or a recurrent cell
    C  tokens in a chunk    M  chunks or blocks
    L  layers               Y  vocabulary

Annotations are jaxtyping's: `Float[Array, "B T D"]`. They are documentation; nothing checks them at
run time.
"""

from typing import Any

from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

State = Any  # a NamedTuple of arrays, each with B as its leading axis; every mixer declares its own
PyTree = Any

__all__ = ["Array", "Bool", "DTypeLike", "Float", "Int", "PyTree", "State"]
