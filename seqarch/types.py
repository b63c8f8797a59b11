"""The axis alphabet and the array aliases, declared once.

Einsum letters and shape annotations everywhere in seqarch obey this table:

    B  batch                T  time (tokens)         S  key slots (cache, keys)
    D  model width          F  inner width of MLP    W  convolution width
    H  heads                G  key/value heads       R  query heads per key/value head (H = G R)
    K  key channels         V  value channels        N  state channels of an SSM
    E  inner channels of an SSM or a recurrent cell
    C  tokens in a chunk    M  chunks or blocks
    L  layers               Y  vocabulary           U  gates of a recurrent cell (U = 3 E)

Annotations are jaxtyping's: `Float[Array, "B T D"]`. The tests check those of ops, layers and
mixers in every call, and so does any program where SEQARCH_CHECK_SHAPES=1.
"""

from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

Array = jax.Array | np.ndarray  # ops take NumPy's as well; what they return is JAX's
State = Any  # a NamedTuple of arrays, each with B as its leading axis; every mixer declares its own
PyTree = Any

__all__ = ["Array", "Bool", "DTypeLike", "Float", "Int", "PyTree", "State"]
