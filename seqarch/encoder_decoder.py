"""The encoder-decoder: an encoder reads the source, and a decoder generates a target from it.

    e      = encoder(source)                       both ways, within the length of each source
    logits = decoder(target, what it reads of e)   a language model, which has one of these:

    attention     cross-attention in each block, between mixer and MLP; its keys and values of e
                  are computed once, and are O(source) of the decoder's state
    summary       one vector of e, which is added to every input of the decoder
                  (seqarch.source_summary). The state is of one size, whatever the length of the
                  source

Source and target share the embedding. A target begins with the vocabulary's last token, the start
token, and -1 pads a source.

Source: Vaswani et al. 2017, "Attention is all you need", figure 1; Cho et al. 2014, "Learning
phrase representations using RNN encoder-decoder", sections 2.2 and A.1.
"""

from functools import partial
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqarch.block_stack import BlockStack, make_block, make_causal, make_mixer
from seqarch.config import ModelConfig
from seqarch.cross_attention import CrossAttention, SourceCache
from seqarch.errors import UserError
from seqarch.layers import Block, RMSNorm, split_rows
from seqarch.mixers.both_ways import BothWays
from seqarch.model import LanguageModel, at_precision
from seqarch.patterns import Layer
from seqarch.source_summary import Summary, SummaryState
from seqarch.token_rows import document_lengths
from seqarch.types import Array, Bool, Float, Int, State

PADDING = -1  # the token that pads a source
Encoded = tuple[Float[Array, "B S D"], Int[Array, "B"]]  # vectors, and their number in each row


class DecoderState(NamedTuple):
    """The state of an encoder-decoder's decoder.

    mixers: of each layer
    source: what it reads of the source, which no step changes: keys and values for each layer, or
      the summary
    """

    mixers: tuple[State, ...]
    source: tuple[SourceCache, ...] | SummaryState


class Encoder(BlockStack):
    """Blocks that see the whole source: their mixers are not causal, or are run both ways."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.remat = config.remat
        self.make_blocks(config.encoder_stack, partial(_encoder_block, config), rngs=rngs)
        self.norm = RMSNorm(config.dim, eps=config.norm_eps, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B S D"], lengths: Int[Array, "B"], *, key: Array | None = None
    ) -> Float[Array, "B S D"]:
        """Returns the vectors of a source, of which row b has lengths[b]; `key`: of dropout."""
        return self.norm(self.run_blocks(x, None, lengths, key=key))


def _encoder_block(config: ModelConfig, layer: Layer, rngs: nnx.Rngs) -> Block:
    mixer = make_mixer(config, layer, rngs)
    if mixer.causal:
        mixer = BothWays(mixer, make_mixer(config, layer, rngs))
    return make_block(config, mixer, rngs)


class EncoderDecoder(LanguageModel):
    """A model that predicts the next token of a target, given a source.

        logits = model(tokens, source=source)           training
        states = model.encode(source, max_len)          of the decoder, before the first token
        logits, states = model.step(tokens, states)     one token of the target, as `prefill`

    `starts` forget the target before them, not the source.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.encoder = Encoder(config, rngs=rngs)
        summarised = config.reading.mixer == "summary"
        self.summary = Summary(config.dim, dtype=self.dtype, rngs=rngs) if summarised else None

    @at_precision
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        starts: Bool[Array, "B T"] | None = None,
        positions: Int[Array, "B Q"] | None = None,
        *,
        source: Int[Array, "B S"],
        key: Array | None = None,
    ) -> Float[Array, "B Q Y"]:
        """Returns the logits of positions in float32, for training.

        Args:
          tokens: of the target, ids in [0, Y), the start token first.
          starts: see `LanguageModel.__call__`.
          positions: likewise.
          source: ids, then PADDING.
          key: of dropout.

        Raises:
          UserError: where a token is outside the vocabulary; traced tokens are not checked.
        """
        keys = (None, None) if key is None else jax.random.split(key)
        encoded = self._encode(source, keys[0])
        x, given = self._embed(tokens), (starts, None, encoded)
        if self.summary is not None:
            x, given = self._add(x, tokens, self.summary.read(*encoded)), (starts,)
        return self._unembed(self.run_blocks(x, *given, key=keys[1]), positions)

    @at_precision
    def encode(self, source: Int[Array, "B S"], max_len: int) -> DecoderState:
        """Returns the decoder's state before the first token of the target.

        Args:
          source: ids, then PADDING.
          max_len: tokens of the target that a state which grows must have room for.

        Raises:
          UserError: where a token is outside the vocabulary or follows PADDING; traced tokens are
            not checked.
        """
        encoded = self._encode(source, None)
        read = self.summary.read(*encoded) if self.summary is not None else None
        if read is None:
            read = tuple(block.cross.read(*encoded) for block in self.blocks())
        return DecoderState(super().init_state(len(source), max_len), read)

    def init_state(self, batch: int, max_len: int, source: int = 1) -> DecoderState:
        """Returns the state of targets without a source; `encode` returns that with one.

        Args:
          batch: rows B.
          max_len: see `encode`.
          source: tokens that the source has room for.
        """
        mixers = super().init_state(batch, max_len)
        if self.summary is not None:
            return DecoderState(mixers, self.summary.init_state(batch))
        read = (block.cross.init_state(batch, source) for block in self.blocks())
        return DecoderState(mixers, tuple(read))

    @at_precision
    def prefill(self, tokens, states, starts=None, lengths=None):
        """Returns the hidden vectors and the states; see `LanguageModel.prefill`."""
        self.check_room(states, *document_lengths(tokens.shape, starts, lengths))
        x, sources = self._inputs(tokens, states)
        y, mixers = self._prefill(x, states.mixers, starts, lengths, sources=sources)
        return y, states._replace(mixers=mixers)

    @at_precision
    def step(self, tokens, states):
        """Returns the logits after one token a row, and the states; see `LanguageModel.step`."""
        self.check_room(states, np.ones(tokens.shape, int))
        x, sources = self._inputs(tokens, states)
        logits, mixers = self._step(x, states.mixers, sources)
        return logits, states._replace(mixers=mixers)

    def check_room(self, states, count, begun=None):
        """Checks that the states have room for more tokens; see `LanguageModel.check_room`."""
        super().check_room(states.mixers, count, begun)

    @property
    def state_axes(self) -> DecoderState:
        if self.summary is not None:
            return DecoderState(super().state_axes, Summary.state_axes)
        return DecoderState(super().state_axes, (CrossAttention.state_axes,) * len(self.blocks()))

    def unstack(self) -> Self:
        model = super().unstack()
        model.encoder = model.encoder.unstack()
        return model

    def _block(self, config: ModelConfig, layer: Layer, rngs: nnx.Rngs) -> Block:
        mixer, reading = make_causal(config, layer, rngs), config.reading
        cross = None
        if reading.mixer == "attention":
            options = dict(reading.options, dtype=self.dtype, rngs=rngs)
            cross = CrossAttention(config.dim, **options)
        return make_block(config, mixer, rngs, cross)

    def _encode(self, source: Int[Array, "B S"], key: Array | None) -> Encoded:
        _check_padding(source)
        lengths = (source != PADDING).sum(1, dtype=jnp.int32)
        x = self._embed(source * (source != PADDING))
        return split_rows(self.encoder(x, lengths, key=key)), lengths

    def _inputs(
        self, tokens: Int[Array, "B *T"], states: DecoderState
    ) -> tuple[Float[Array, "B *T D"], tuple[SourceCache, ...] | None]:
        """Returns the decoder's inputs, and what each of its layers reads of the source."""
        x = self._embed(tokens)
        if self.summary is None:
            return x, states.source
        return self._add(x, tokens, states.source), None

    def _add(self, x: Float[Array, "B *T D"], tokens: Array, summary: SummaryState) -> Array:
        """Returns the decoder's inputs with the summary, given the embeddings of its tokens."""
        every, start = summary
        if tokens.ndim == 2:
            every, start = every[:, None], start[:, None]
        return jnp.where((tokens == self.boundary)[..., None], start, x) + every


def _check_padding(source: Int[Array, "B S"]) -> None:
    """Raises UserError for a token behind padding; traced sources are not checked."""
    if isinstance(source, jax.core.Tracer):
        return
    present = np.asarray(source) != PADDING
    if (wrong := np.flatnonzero((present[:, 1:] & ~present[:, :-1]).any(1))).size:
        raise UserError(
            f"row {wrong[0]} of the source has a token behind {PADDING}, which pads a source; "
            "pad it at its end alone"
        )
