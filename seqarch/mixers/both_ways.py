"""A causal mixer run both ways, for encoders.

    y = ahead(x) + reverse(back(reverse(x)))

The two have parameters of their own. As each ends with a projection, their sum is the projection of
the states of both directions side by side. Padding stays behind the tokens in both.

Source: Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".
"""

from flax import nnx

from seqarch.mixers.base import SequenceMixer
from seqarch.ops.reverse import reverse
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
