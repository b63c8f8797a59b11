"""SequenceMixer: what mixes tokens over time, in four verbs, and the law that ties them
together.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.ops.forms import Forms
from seqarch.types import Array, Bool, Float, Int, State


class SequenceMixer(nnx.Module):
    """One causal function of a sequence, in the forms that training, prompts and decoding need.

        y        = mixer(x, starts)                             training: from an empty state
        y, state = mixer.prefill(x, state, starts, lengths)     the same, continuing from a state
        y, state = mixer.step(x, state)                         one token
        state    = mixer.init_state(batch, max_len)             the empty state

    The law, tested by `seqarch.laws` for values, states and gradients: a scan of `step` is
    `prefill`; `prefill` of a, then of b, is `prefill` of ab; documents that `starts` packs into a
    row give what they give alone; tokens beyond `lengths` change nothing; no output depends on a
    later input or on another row. Gradients are those of finite differences, and no parameter lacks
    one; bfloat16 does not drift, large inputs stay finite, and rows of a state can be reused and
    reordered.

    A subclass takes `dim`, then hyper-parameters as keywords, then `dtype` (of the computation) and
    `rngs`. Parameters name their logical axes in metadata, `axes=("embed", "heads")`; those without
    weight decay say `decay=False`; projections to the residual stream say `residual=True`; those
    that every use casts to one dtype say `cast=jnp.dtype(dtype)`, and are served in it.
    """

    forms: ClassVar[Forms | None] = None  # of its op, where the constructor takes `method`
    state_axes: ClassVar[
        State
    ]  # the logical axes of the state's arrays, in a state of the same type

    @property
    def constant_state(self) -> bool:
        """Whether the state's size does not depend on `max_len` (once that is at least the window,
        where there is one).
        """
        return True

    def init_state(self, batch: int, max_len: int) -> State:
        """The state before the first token: a NamedTuple of arrays with B leading.

        max_len: tokens it must hold, where a state grows with them; others ignore it
        """
        raise AssertionError(f"{type(self).__name__} does not define init_state")

    def room(self, state: State, *, fresh: bool = False) -> Int[Array, "B"] | None:
        """Tokens that each row's state can still take; None where it never fills.

        Args:
            fresh: count for a document that begins now, in place of the one that the state holds.
        """
        return None

    def prefill(
        self,
        x: Float[Array, "B T D"],
        state: State,
        starts: Bool[Array, "B T"] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], State]:
        """Outputs for all tokens and the state after them.

        starts: first tokens of documents; what came before, the state included, is forgotten there
        lengths: row b holds lengths[b] tokens, then padding, whose outputs mean nothing
        """
        raise AssertionError(f"{type(self).__name__} does not define prefill")

    def step(self, x: Float[Array, "B D"], state: State) -> tuple[Float[Array, "B D"], State]:
        """Output and state for one token a row."""
        raise AssertionError(f"{type(self).__name__} does not define step")

    def __call__(
        self, x: Float[Array, "B T D"], starts: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        """Outputs from an empty state."""
        return self.prefill(x, self.init_state(x.shape[0], 0), starts)[0]


def select_rows(rows: Bool[Array, "B"], then: State, otherwise: State) -> State:
    """A state, or any pytree of arrays with B leading, row by row: `then` where `rows`, else
    `otherwise`.
    """

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(rows.reshape(rows.shape + (1,) * (a.ndim - 1)), a, b)

    return jax.tree.map(pick, then, otherwise)
