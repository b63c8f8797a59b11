"""Decoding on states: prompts are prefilled in segments, then one lax.scan decodes token by token.

The functions here donate the states that they are given: `jax.tree.map(jnp.copy, states)` keeps a
copy for a rollback. `fork` copies a row's state to many rows, `reset` empties rows.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.encoder_decoder import PADDING, DecoderState, EncoderDecoder
from seqarch.errors import UserError
from seqarch.mixers.base import select_rows
from seqarch.model import LanguageModel
from seqarch.prompts import bucket, pad, prompt_tokens
from seqarch.sampling import Sampling, sample
from seqarch.token_rows import document_lengths
from seqarch.types import Array, Bool, Float, Int, State


def encode(model: EncoderDecoder, sources: Sequence[Sequence[int]], max_len: int) -> DecoderState:
    """Returns the states of an encoder-decoder before the first token of its targets.

    Args:
      model: see `LanguageModel.serving` for the fastest one.
      sources: the ids of each row's source.
      max_len: tokens of a target that a state which grows must have room for.

    Raises:
      UserError: where a source has an id outside the vocabulary.
    """
    sources = [prompt_tokens(source, model) for source in sources]
    columns = bucket(max(map(len, sources)), least=16, parts=4)
    return jit_encode(max_len)(model, pad(sources, columns, PADDING))


@cache
def jit_encode(max_len: int) -> Callable:
    """Returns the program of `EncoderDecoder.encode`: (model, source) -> state."""
    return jax.jit(lambda model, source: model.encode(source, max_len))


def prefill(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    states: tuple[State, ...],
    *,
    segment: int = 512,
) -> tuple[Float[Array, "B Y"], tuple[State, ...]]:
    """Returns the logits after each prompt and the states after it; donates `states`.

    Args:
      model: see `LanguageModel.serving` for the fastest one.
      prompts: the ids of each row's tokens; an empty prompt is the document boundary.
      states: one per layer, with a row for each prompt.
      segment: tokens of a row that are processed at once, which bounds the memory.

    Raises:
      UserError: where a prompt has an id outside the vocabulary, or more tokens than the states
        have room for.
    """
    prompts = [prompt_tokens(prompt, model) for prompt in prompts]
    lengths = np.array([len(prompt) for prompt in prompts])
    segment = min(segment, bucket(lengths.max(), least=16, parts=1))
    tokens = pad(prompts, -(-lengths.max() // segment) * segment, model.boundary)
    model.check_room(states, *document_lengths(tokens.shape, tokens == model.boundary, lengths))
    hidden = jnp.zeros((len(prompts), model.embedding.shape[1]), model.dtype)
    for start in range(0, tokens.shape[1], segment):
        piece, left = tokens[:, start : start + segment], np.clip(lengths - start, 0, segment)
        hidden, states = prefill_segment(model, piece, states, left, hidden)
    return jax.jit(LanguageModel.logits)(model, hidden), states


@partial(jax.jit, donate_argnums=(2,), keep_unused=True)
def prefill_segment(model, tokens, states, lengths, hidden):
    """Returns the hidden vector [B, D] of each row's last token so far, and the states.

    The unembedding is not used, but `keep_unused` counts it in the program's memory.
    """
    x, states = model.prefill(tokens, states, tokens == model.boundary, lengths)
    last = jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]
    return jnp.where((lengths > 0)[:, None], last, hidden), states


class Decoding(NamedTuple):
    """The carry of decoding.

    logits: of the next token
    states: one per layer
    done: whether a row has met the stop token
    """

    logits: Float[Array, "B Y"]
    states: tuple[State, ...]
    done: Bool[Array, "B"]


def decode(
    model: LanguageModel,
    at: Decoding,
    key: Array,
    first: int | Array = 0,
    *,
    steps: int,
    sampling: Sampling = Sampling(),
    stop: int | None = None,
) -> tuple[Int[Array, "B steps"], Decoding]:
    """Returns the next `steps` tokens of each row, and the carry after them; donates `at`.

    Args:
      model: see `LanguageModel.serving` for the fastest one.
      at: the carry of `prefill` or of the call before.
      key: of the draws.
      first: the number of the first of these tokens. The same key samples the same text whatever
        pieces it is decoded in.
      steps: tokens per row.
      sampling: how tokens are drawn.
      stop: a token that ends a row, which repeats it from there on. Without one, the document
        boundary is a token like any other, and decoding goes on in the same state.

    Raises:
      UserError: where a row that is not done has no room for so many tokens, or `sampling` is
        out of range.
    """
    sampling.check()
    _check_stop(stop, model)
    model.check_room(at.states, _tokens_to_come(at.done, steps, stop))
    return decode_unchecked(model, at, key, first, steps=steps, sampling=sampling, stop=stop)


def _tokens_to_come(done: Bool[Array, "B"], steps: int, stop: int | None) -> Array | np.ndarray:
    """Returns the room that each row needs; a row that has met the stop token needs none."""
    if stop is None:
        return np.full(done.shape, steps)
    return done if isinstance(done, jax.core.Tracer) else np.where(done, 0, steps)


def _check_stop(stop: int | None, model: LanguageModel) -> None:
    size = model.embedding.shape[0]
    whole = isinstance(stop, (int, np.integer)) and not isinstance(stop, bool)
    if stop is not None and not (whole and 0 <= stop < size):
        raise UserError(f"stop is {stop!r}; give one of the model's tokens, 0 to {size - 1}")


@partial(jax.jit, static_argnames=("steps", "sampling", "stop"), donate_argnums=(1,))
def decode_unchecked(model, at, key, first=0, *, steps, sampling=Sampling(), stop=None):
    """Does what `decode` does, as one program without checks; full states give logits of NaN."""

    def body(at: Decoding, key: Array) -> tuple[Decoding, Array]:
        token, done = sample(at.logits, sampling, key), at.done
        if stop is not None:
            token = jnp.where(done, stop, token)
            done = done | (token == stop)
        return Decoding(*model.step(token, at.states), done), token

    keys = jax.vmap(partial(jax.random.fold_in, key))(first + jnp.arange(steps))
    at, tokens = jax.lax.scan(body, at, keys)
    return tokens.T, at


def fork(states: tuple[State, ...], rows: Int[Array, "R"]) -> tuple[State, ...]:
    """Returns states whose row i is row rows[i] of `states`.

    Raises:
      UserError: where a row does not exist; traced `rows` are not checked.
    """
    size = jax.tree.leaves(states)[0].shape[0]
    if not isinstance(rows, jax.core.Tracer):
        wrong = [int(row) for row in np.asarray(rows).flat if not 0 <= row < size]
        if wrong:
            raise UserError(f"there is no row {wrong[0]}; the states have rows 0 to {size - 1}")
    return jax.tree.map(lambda x: x[rows], states)


def reset(
    states: tuple[State, ...], rows: Bool[Array, "B"], empty: tuple[State, ...]
) -> tuple[State, ...]:
    """Returns `states` with the rows where `rows` is True replaced by those of `empty`.

    Args:
      states: one per layer.
      rows: which rows are emptied.
      empty: the model's `init_state` of the same size.
    """
    return select_rows(rows, empty, states)
