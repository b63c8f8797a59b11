"""The summary of a source: one vector for each row, whatever the length of the source.

    c = tanh(V [e_last; e_first]) is what an encoder ends with in each direction

Every input of a decoder is E y + C c, and its start token's is tanh(V' c) + C c.

Source: Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", sections 2.2
and A.1: there tanh(V' c) is the first state of the decoder, which here begins by reading it, as
that is what every mixer can do; and C c stands in every gate, which here read it from the residual
stream.
"""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from seqarch.layers import Linear
from seqarch.types import Array, DTypeLike, Float, Int


class SummaryState(NamedTuple):
    """What a decoder reads of a summary.

    every: what is added to every input
    start: what a start token stands for
    """

    every: Float[Array, "B D"]
    start: Float[Array, "B D"]


class Summary(nnx.Module):
    """The projections of the vectors at both ends of a source to what a decoder reads of it."""

    state_axes = SummaryState(("batch", "embed"), ("batch", "embed"))

    def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dim, self.dtype = dim, dtype
        projection = partial(Linear, axes=("embed", None), rngs=rngs, dtype=dtype)
        self.ends, self.every, self.start = (projection(n * dim, dim) for n in (2, 1, 1))

    def read(self, source: Float[Array, "B S D"], lengths: Int[Array, "B"]) -> SummaryState:
        """Returns what a decoder reads of a source; a source without vectors has zeros for them."""
        last = jnp.maximum(lengths - 1, 0)[:, None, None]
        ends = jnp.take_along_axis(source, last, axis=1)[:, 0], source[:, 0]
        ends = jnp.where((lengths > 0)[:, None], jnp.concatenate(ends, axis=-1), 0)
        c = jnp.tanh(self.ends(ends))
        return SummaryState(self.every(c), jnp.tanh(self.start(c)))

    def init_state(self, batch: int) -> SummaryState:
        """Returns the summary of no source."""
        return SummaryState(*(jnp.zeros((batch, self.dim), self.dtype) for _ in range(2)))
