"""The interface of a mixer: four methods, and the law that they obey together."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.errors import UserError
from seqarch.ops.forms import Forms
from seqarch.ops.numerics import behind, valid_tokens
from seqarch.types import Array, Bool, Float, Int, State

MOST_UNROLLED = 256  # repetitions, each of which a compiler takes time for


class SequenceMixer(nnx.Module):
    """A layer that mixes tokens over time: one causal function, for training, prompts and decoding.

        y        = mixer(x, starts, lengths)                    training, from an empty state
        y, state = mixer.prefill(x, state, starts, lengths)     prompts, from any state
        y, state = mixer.step(x, state)                         one token
        state    = mixer.init_state(batch, max_len)             the empty state

    The law, tested by `seqarch.laws` for values, states and gradients: a scan of `step` is
    `prefill`; `prefill` of a, then of b, is `prefill` of ab; documents that `starts` packs into a
    row give what they give alone; tokens beyond `lengths` change nothing; no output depends on a
    later input or on another row. Gradients are those of finite differences, and no parameter lacks
    one; bfloat16 does not drift, large inputs stay finite, and rows of a state can be reused and
    reordered.

    A subclass's constructor takes `dim`, then hyper-parameters as keywords, then `dtype` (of the
    computation) and `rngs`. The metadata of a parameter are:

        axes=("embed", "heads")     its logical axes
        decay=False                 it has no weight decay
        residual=True               it is a projection to the residual stream
        cast=jnp.dtype(dtype)       every use casts it to this dtype, so it is served in it
        shared=True                 the layers of a model have one in common

    Attributes:
      forms: the forms of its op, where the constructor takes `method`.
      causal: whether no output depends on a later input. A mixer for which that is False, by an
        option, has no step, and is of use in an encoder alone.
      state_axes: the logical axes of the state's arrays, in a state of the same type.
      piecewise: whether it makes choices, such as hashes or the best of several, so that its
        function jumps where one changes. Its gradient is that with the choices held.
      state_option: the option of the constructor that sizes the state alone, so that members of a
        comparison can be given equal states; None: only the width of the model sizes it.
    """

    forms: ClassVar[Forms | None] = None
    causal: bool = True
    state_axes: ClassVar[State]
    piecewise: ClassVar[bool] = False
    state_option: ClassVar[str | None] = None

    @property
    def constant_state(self) -> bool:
        """Whether the state's size is the same for every `max_len` of at least the window."""
        return True

    @property
    def is_tpu_kernel(self) -> bool:
        """Whether its op is a kernel for a TPU, which returns what the backward pass needs."""
        return self.forms is not None and self.forms.is_tpu_kernel(self.method)

    def init_state(self, batch: int, max_len: int) -> State:
        """Returns the state before the first token: a NamedTuple of arrays with B leading.

        Args:
          batch: rows B.
          max_len: tokens that a state which grows must have room for; others ignore it.
        """
        raise AssertionError(f"{type(self).__name__} does not define init_state")

    def room(self, state: State, *, fresh: bool = False) -> Int[Array, "B"] | None:
        """Returns how many more tokens each row's state can take; None where it never fills.

        Args:
          state: any.
          fresh: count for a document that begins now and replaces the one in the state.
        """
        return None

    def prefill(
        self,
        x: Float[Array, "B T D"],
        state: State,
        starts: Bool[Array, "B T"] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], State]:
        """Returns the outputs for all tokens and the state after them.

        Args:
          x: inputs.
          state: where the rows continue.
          starts: whether a token is the first of a document, which forgets all before it, the
            state included.
          lengths: row b has lengths[b] tokens, then padding, whose outputs mean nothing.
        """
        raise AssertionError(f"{type(self).__name__} does not define prefill")

    def step(self, x: Float[Array, "B D"], state: State) -> tuple[Float[Array, "B D"], State]:
        """Returns the output for one token a row, and the state after it."""
        raise AssertionError(f"{type(self).__name__} does not define step")

    def __call__(
        self,
        x: Float[Array, "B T D"],
        starts: Bool[Array, "B T"] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> Float[Array, "B T D"]:
        """Returns the outputs from an empty state; `starts` and `lengths` are as in `prefill`."""
        return self.prefill(x, self.init_state(x.shape[0], 0), starts, lengths)[0]


class FormMixer(SequenceMixer):
    """A mixer of which a step is a row of one token, in its op's form from token to token.

    A subclass defines `_run` in place of `prefill` and `step`.
    """

    def prefill(self, x, state, starts=None, lengths=None):
        starts, valid = masks(x, starts, lengths)
        return self._run(x, state, self.method, starts=starts, valid=valid)

    def step(self, x, state):
        y, state = self._run(x[:, None], state, "sequential")
        return y[:, 0], state

    def _run(
        self, x: Float[Array, "B T D"], state: State, method: str, **masks: Array | None
    ) -> tuple[Float[Array, "B T D"], State]:
        """Returns the outputs and the state after them, by a form of the op."""
        raise AssertionError(f"{type(self).__name__} does not define _run")


def check_unrolled(name: str, count: int) -> None:
    """Raises UserError unless a program can spell out `count` repetitions, which `name` gives."""
    if not 1 <= count <= MOST_UNROLLED:
        raise UserError(f"{name} is {count}; give a number from 1 to {MOST_UNROLLED}")


def select_rows(rows: Bool[Array, "B"], then: State, otherwise: State) -> State:
    """Returns the rows of `then` where `rows` is True, else those of `otherwise`.

    Both are states, or other pytrees of arrays with B leading.
    """

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(behind(rows, a), a, b)

    return jax.tree.map(pick, then, otherwise)


def masks(
    x: Float[Array, "B T D"], starts: Bool[Array, "B T"] | None, lengths: Int[Array, "B"] | None
) -> tuple[Bool[Array, "B T"] | None, Bool[Array, "B T"] | None]:
    """Returns which tokens of `x` begin a document and which exist; None: none, and all."""
    valid = None if lengths is None else valid_tokens(lengths, *x.shape[:2])
    if valid is not None and starts is not None:
        starts = starts & valid
    return starts, valid
