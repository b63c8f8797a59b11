"""A causal mixer run both ways, for encoders.

    y = ahead(x) + reverse(back(reverse(x)))

The two have parameters of their own. As each ends with a projection, their sum is the projection of
the states of both directions side by side. Padding stays behind the tokens in both.

Source: Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".
"""

import jax.numpy as jnp
from flax import nnx

from seqarch.mixers.base import SequenceMixer
from seqarch.ops.numerics import tokens_at
from seqarch.types import Array, Bool, Float, Int


class BothWays(nnx.Module):
    """A pair of causal mixers, of which one reads backwards.

    ahead: the mixer that reads from the first token on
    back: the mixer that reads from the last token back
    """

    causal = False

    def __init__(self, ahead: SequenceMixer, back: SequenceMixer):
        self.ahead, self.back = ahead, back

    @property
    def is_tpu_kernel(self) -> bool:
        """See `SequenceMixer.is_tpu_kernel`."""
        return self.ahead.is_tpu_kernel

    def __call__(
        self,
        x: Float[Array, "B T D"],
        starts: Bool[Array, "B T"] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Returns the outputs; rows are single documents, so there are no `starts`."""
        assert starts is None
        back = self.back(reverse(x, lengths), lengths=lengths)
        return self.ahead(x, lengths=lengths) + reverse(back, lengths)


def reverse(x: Float[Array, "B T D"], lengths: Int[Array, "B"] | None) -> Float[Array, "B T D"]:
    """Returns `x` with the first lengths[b] tokens of row b in reverse order, padding where it is.

    It is its own inverse. Without `lengths` all tokens are reversed.
    """
    if lengths is None:
        return jnp.flip(x, axis=1)
    place = jnp.arange(x.shape[1])[None]
    order = jnp.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)
    return tokens_at(x, order)
