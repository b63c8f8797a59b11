"""The language model: embedding, layers and unembedding, with a training call, prefill and step.

`make_model` makes it, or the encoder-decoder of `seqarch.encoder_decoder`, which extends it.
"""

import functools
import pkgutil
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqarch.block_stack import BlockStack, make_block, make_causal
from seqarch.config import ModelConfig
from seqarch.errors import UserError
from seqarch.layers import Block, RMSNorm
from seqarch.ops.numerics import project, tokens_at
from seqarch.patterns import Layer
from seqarch.token_rows import check_tokens, document_lengths
from seqarch.types import Array, Bool, Float, Int, State

MODELS = {  # by `ModelConfig.kind`
    "lm": "seqarch.model:LanguageModel",
    "encdec": "seqarch.encoder_decoder:EncoderDecoder",
}

# Equal layers are traced and lowered once, then called; XLA inlines the calls.
_prefill, _step = jax.jit(Block.prefill), jax.jit(Block.step)


def at_precision(method: Callable) -> Callable:
    """Returns `method`, traced at the model's precision of products (see `numerics.project`)."""

    @functools.wraps(method)
    def run(self: Any, *args, **options):
        with jax.default_matmul_precision(self.precision):
            return method(self, *args, **options)

    return run


class LanguageModel(BlockStack):
    """A model that predicts the next token.

    It is a frozen pytree: nothing in it changes after construction, and JAX's own transforms
    (`jax.jit`, `jax.grad`, ...) take it.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.remat, self.precision = config.remat, config.precision
        self.dtype = jnp.dtype(config.dtype)
        self.boundary = config.boundary % config.vocab  # the token that begins a document
        self.embedding_scale, self.logits_cap = config.embedding_scale, config.logits_cap
        embedding = jax.random.normal(rngs.params(), (config.vocab, config.dim)) * config.dim**-0.5
        self.embedding = nnx.Param(embedding, axes=("vocab", "embed"), decay=False, cast=self.dtype)
        make = functools.partial(self._block, config)
        self.make_blocks(config.stack, make, rngs=rngs)
        self.norm = RMSNorm(config.dim, eps=config.norm_eps, rngs=rngs)
        self.head = None if config.tied else self._untied(config, rngs)

    @at_precision
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        starts: Bool[Array, "B T"] | None = None,
        positions: Int[Array, "B Q"] | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "B Q Y"]:
        """Returns the logits of positions in float32, from an empty state, for training.

        Args:
          tokens: ids in [0, Y).
          starts: whether a token is the first of a document packed into its row.
          positions: of the logits, different ones in each row; None: all.
          key: the key of dropout; without one, nothing is dropped.

        Raises:
          UserError: where a token is outside the vocabulary; traced tokens are not checked.
        """
        x = self.run_blocks(self._embed(tokens), starts, key=key)
        return self._unembed(x, positions)

    def init_state(self, batch: int, max_len: int) -> tuple[State, ...]:
        """Returns the empty state of every layer.

        Args:
          batch: rows B.
          max_len: tokens that a state which grows must have room for.
        """
        return tuple(block.mixer.init_state(batch, max_len) for block in self.blocks())

    @at_precision
    def prefill(
        self,
        tokens: Int[Array, "B T"],
        states: tuple[State, ...],
        starts: Bool[Array, "B T"] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple[State, ...]]:
        """Returns the hidden vectors of all tokens, for `logits`, and the states after them.

        The arguments are those of `SequenceMixer.prefill`.

        Raises:
          UserError: where a row has more tokens than its state has room for, or a token is
            outside the vocabulary; traced values are not checked.
        """
        self.check_room(states, *document_lengths(tokens.shape, starts, lengths))
        return self._prefill(self._embed(tokens), states, starts, lengths)

    @at_precision
    def step(
        self, tokens: Int[Array, "B"], states: tuple[State, ...]
    ) -> tuple[Float[Array, "B Y"], tuple[State, ...]]:
        """Returns the logits after one token a row, in float32, and the states after it.

        Raises:
          UserError: as `prefill` does.
        """
        self.check_room(states, np.ones(tokens.shape, int))
        return self._step(self._embed(tokens), states)

    def check_room(
        self, states: tuple[State, ...], count: Array | None, begun: Array | None = None
    ) -> None:
        """Checks that the states have room for more tokens.

        Where a value is traced nothing is checked; the mixers then return NaN.

        Args:
          states: one per layer.
          count: Int[Array, "B"], the tokens that continue each row's document.
          begun: Int[Array, "B"], the tokens of the longest document that begins in each row.

        Raises:
          UserError: where a row is given more tokens than it has room for.
        """
        for block, state in zip(self.stacked_blocks(), states, strict=True):
            for given, fresh in ((count, False), (begun, True)):
                room = None if given is None else block.mixer.room(state, fresh=fresh)
                if room is None or any(isinstance(x, jax.core.Tracer) for x in (given, room)):
                    continue
                given, room = np.asarray(given), np.asarray(room)
                if (over := np.flatnonzero(given > room)).size:
                    raise UserError(
                        f"row {over[0]} is given {given[over[0]]} tokens and its state has "
                        f"room for {room[over[0]]}; give init_state a larger max_len"
                    )

    @at_precision
    def logits(self, x: Float[Array, "... D"]) -> Float[Array, "... Y"]:
        """Returns the unembedding of hidden vectors, in float32."""
        head = self.embedding[...].T if self.head is None else self.head[...]
        logits = project(x, head.astype(x.dtype), jnp.float32)
        cap = self.logits_cap
        return cap * jnp.tanh(logits / cap) if cap else logits

    @property
    def state_axes(self) -> tuple[State, ...]:
        """The logical axes of the arrays of `init_state`; the model must be unstacked."""
        return tuple(block.mixer.state_axes for block in self.blocks())

    def serving(self) -> Self:
        """Returns the model for prefill and step: unstacked, each parameter in its computing dtype.

        A loop over steps would otherwise keep casts of the parameters beside the parameters.
        Parameters of float32 computations stay float32. Arrays that need neither a cast nor a slice
        are shared with this model.
        """
        return jax.tree.map(
            _cast, self.unstack(), is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
        )

    def _embed(self, tokens: Int[Array, "..."]) -> Float[Array, "... D"]:
        check_tokens(tokens, self.embedding.shape[0])
        # Gathered before the cast, so that the gradient is summed in float32.
        x = self.embedding[...][tokens].astype(self.dtype)
        return x if self.embedding_scale == 1 else x * self.embedding_scale

    def _untied(self, config: ModelConfig, rngs: nnx.Rngs) -> nnx.Param:
        """Returns the parameters of a head of its own.

        With variance 1 / D^2 (Yang et al. 2021, "Tensor programs V", table 3) all tokens are about
        equally likely before training.
        """
        head = jax.random.normal(rngs.params(), (config.dim, config.vocab)) / config.dim
        return nnx.Param(head, axes=("embed", "vocab"), cast=self.dtype)

    def _prefill(self, x, states, *given, sources=None):
        """Returns what `prefill` does, from embeddings; `sources`: what each layer reads."""
        return self._through(_prefill, x, states, sources, *given)

    def _step(self, x, states, sources=None):
        """Returns what `step` does, from embeddings; `sources`: what each layer reads."""
        x, states = self._through(_step, x, states, sources)
        return self.logits(x), states

    def _through(self, call: Callable, x, states, sources, *given):
        """Returns the hidden vectors behind all layers, and the states; `call`: that of a block."""
        after, blocks = [], self.blocks()
        more = [()] * len(blocks) if sources is None else [(source,) for source in sources]
        for block, state, source in zip(blocks, states, more, strict=True):
            x, state = call(block, x, state, *given, *source)
            after.append(state)
        return self.norm(x), tuple(after)

    def _unembed(self, x: Float[Array, "B T D"], positions: Int[Array, "B Q"] | None) -> Array:
        """Returns the logits of positions; None: of all."""
        return self.logits(self.norm(x if positions is None else tokens_at(x, positions)))

    def _block(self, config: ModelConfig, layer: Layer, rngs: nnx.Rngs) -> Block:
        return make_block(config, make_causal(config, layer, rngs), rngs)


def find_model(config: ModelConfig) -> type[LanguageModel]:
    """Returns the class of a config's model."""
    return pkgutil.resolve_name(MODELS[config.kind])


def make_model(config: ModelConfig, *, rngs: nnx.Rngs) -> LanguageModel:
    """Returns the model of a config: a language model or an encoder-decoder, which extends it."""
    return find_model(config)(config, rngs=rngs)


def _cast(param: nnx.Variable) -> nnx.Variable:
    """Returns `param` in the dtype of its metadata `cast`, or as it is where it has none."""
    value = param.get_value()
    return param.replace(value.astype(param.get_metadata().get("cast", value.dtype)))


def abstract_model(config: ModelConfig) -> LanguageModel:
    """Returns the model of a config with the shapes and dtypes of its arrays alone."""
    return jax.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0)))


@functools.cache
def count_parameters(config: ModelConfig) -> int:
    """Returns the number of parameters; nothing is allocated."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_model(config)))
