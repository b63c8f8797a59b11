"""The letters of axes and the aliases of array types.

Einsums and shape annotations everywhere in seqarch use these letters:

    B  batch                T  time (tokens)         S  key slots (cache, keys)
    D  model width          F  inner width of MLP    W  convolution width
    H  heads                G  key/value heads       R  query heads per key/value head (H = G R)
    K  key channels         V  value channels        N  state channels of an SSM
    E  inner channels of an SSM or a recurrent cell
    C  tokens in a chunk    M  chunks or blocks
    L  layers               Y  vocabulary           U  gates of a recurrent cell (U = 3 E or 4 E)

Annotations are jaxtyping's: `Float[Array, "B T D"]`. Those of ops, layers and mixers are checked at
every call in the tests, and in any program where SEQARCH_CHECK_SHAPES=1.
"""

from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Bool, Complex, Float, Inexact, Int

Array = jax.Array | np.ndarray  # ops take both and return JAX's
State = Any  # a NamedTuple of arrays with B as their leading axis; every mixer declares its own
PyTree = Any

__all__ = ["Array", "Bool", "Complex", "DTypeLike", "Float", "Inexact", "Int", "PyTree", "State"]
