"""Generates text: prompts are prefilled in segments, then one lax.scan decodes token by token.

An encoder-decoder also has a source for each prompt, which it encodes first.
The functions here donate the states that they are given: `jax.tree.map(jnp.copy, states)` keeps a
copy for a rollback. `fork` copies a row's state to many rows, `reset` empties rows.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.encoder_decoder import PADDING, DecoderState, EncoderDecoder
from seqarch.errors import UserError
from seqarch.mixers.base import select_rows
from seqarch.model import LanguageModel, document_lengths
from seqarch.sampling import Sampling, sample
from seqarch.training.serving import init_states
from seqarch.types import Array, Bool, Float, Int, State

PIECE = 64  # tokens that `generate` decodes between two checks whether every row has met `stop`


def _prompt_tokens(prompt: Sequence[int], model: LanguageModel) -> np.ndarray:
    """Returns the prompt's tokens, or the document boundary where it has none."""
    tokens, size = np.asarray(prompt), model.embedding.shape[0]
    if tokens.ndim != 1:
        raise UserError(f"a prompt is {prompt!r}; give a list of prompts, each a list of tokens")
    if not tokens.size:
        return np.array([model.boundary])
    mixed = any(isinstance(token, (bool, np.bool_)) for token in prompt)
    if mixed or not np.issubdtype(tokens.dtype, np.integer):
        raise UserError(
            f"a prompt holds {tokens.flat[0]!r} as {tokens.dtype}; give whole numbers, the ids "
            "of tokens"
        )
    wrong = tokens[(tokens < 0) | (tokens >= size)]
    if wrong.size:
        raise UserError(
            f"a prompt has a token {wrong[0]}; the model's are 0 to {size - 1}; use the model's "
            "tokenizer"
        )
    return tokens


def encode(model: EncoderDecoder, sources: Sequence[Sequence[int]], max_len: int) -> DecoderState:
    """Returns the states of an encoder-decoder before the first token of its targets.

    Args:
      model: see `LanguageModel.serving` for the fastest one.
      sources: the ids of each row's source.
      max_len: tokens of a target that a state which grows must have room for.

    Raises:
      UserError: where a source has an id outside the vocabulary.
    """
    sources = [_prompt_tokens(source, model) for source in sources]
    columns = _bucket(max(map(len, sources)), least=16, parts=4)
    padded = np.full((len(sources), columns), PADDING, np.int32)
    for row, source in zip(padded, sources):
        row[: len(source)] = source
    return jit_encode(max_len)(model, padded)


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
    prompts = [_prompt_tokens(prompt, model) for prompt in prompts]
    lengths = np.array([len(prompt) for prompt in prompts])
    segment = min(segment, _bucket(lengths.max(), least=16, parts=1))
    padded = -(-lengths.max() // segment) * segment
    tokens = np.full((len(prompts), padded), model.boundary, np.int32)
    for row, prompt in zip(tokens, prompts):
        row[: len(prompt)] = prompt
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


def stream(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    steps: int,
    key: Array,
    sources: Sequence[Sequence[int]] | None = None,
    sampling: Sampling = Sampling(),
    stop: int | None = None,
    every: int = 16,
) -> Iterator[np.ndarray]:
    """Yields pieces of each prompt's continuation, as arrays of tokens Int[B, every].

    It ends after `steps` tokens, or once every row has met `stop`. The last piece is decoded whole
    and then cut, so that all pieces run the same program.

    Args:
      model: any; it is converted by `LanguageModel.serving`.
      prompts: the ids of each row's tokens; an empty prompt is the document boundary.
      steps: the most tokens of a row.
      key: of the draws.
      sources: of an encoder-decoder, the ids of each row's source.
      sampling: how tokens are drawn.
      stop: a token that ends a row, which repeats it from there on.
      every: tokens of a piece.

    Raises:
      UserError: where there is no prompt or no step, where the model's logits are NaN, where an
        encoder-decoder has not one source a prompt, and as `prefill` and `decode` do.
    """
    sampling.check()
    _check_sources(model, prompts, sources)
    prompts = [_prompt_tokens(prompt, model) for prompt in prompts]
    model, longest = model.serving(), max(map(len, prompts), default=0)
    if not prompts or steps < 1:
        raise UserError(
            f"{len(prompts)} prompts, {steps} steps; give at least one prompt and one step"
        )
    pieces = -(-steps // every)
    room = _bucket(max(longest, 1) + pieces * every, least=64, parts=4)
    if sources is None:
        states = init_states(model, len(prompts), room)
    else:
        states = encode(model, sources, room)
    at = Decoding(*prefill(model, prompts, states), jnp.zeros(len(prompts), bool))
    for start in range(0, steps, every):
        tokens, at = decode(model, at, key, start, steps=every, sampling=sampling, stop=stop)
        _check_finite(at.logits)
        yield np.asarray(tokens[:, : steps - start])
        if at.done.all():
            return


def _check_sources(
    model: LanguageModel, prompts: Sequence[Sequence[int]], sources: Sequence | None
) -> None:
    """Raises UserError unless an encoder-decoder has a source for each prompt, and others none."""
    if isinstance(model, EncoderDecoder):
        if sources is None or len(sources) != len(prompts):
            raise UserError(
                f"the model is an encoder-decoder, with {len(sources or ())} sources for "
                f"{len(prompts)} prompts; give `sources`, one for each prompt"
            )
    elif sources is not None:
        raise UserError("the model is a language model, which has no encoder; give no `sources`")


def _check_finite(logits: Float[Array, "B Y"]) -> None:
    """Raises UserError for logits of NaN, from which every draw would be the first token."""
    if (rows := np.flatnonzero(np.isnan(np.asarray(logits)).any(-1))).size:
        raise UserError(
            f"the logits of row {rows[0]} are NaN: the model has diverged; train it again with a "
            "lower optim.lr"
        )


def generate(
    model: LanguageModel, prompts: Sequence[Sequence[int]], *, steps: int, **options
) -> list[np.ndarray]:
    """Returns each prompt's continuation: up to `steps` tokens, without the stop token.

        generate(model, [[1, 2]], steps=100, key=jax.random.key(0), stop=model.boundary)
        generate(model, [[]], sources=[[3, 4]], steps=100, key=jax.random.key(0))

    Args:
      model: any; it is converted by `LanguageModel.serving`.
      prompts: the ids of each row's tokens; an empty prompt is the document boundary.
      steps: the most tokens of a row.
      options: `key`, `sources`, `sampling` and `stop`, as `stream` takes them.

    Raises:
      UserError: as `stream` does.
    """
    every = min(_bucket(max(steps, 1), least=16, parts=1), PIECE)
    pieces = list(stream(model, prompts, steps=steps, every=every, **options))
    tokens = np.concatenate(pieces, axis=1)
    stop = options.get("stop")
    ends = [np.flatnonzero(row == stop)[:1] if stop is not None else [] for row in tokens]
    return [row[: end[0]] if len(end) else row for row, end in zip(tokens, ends)]


def _bucket(size: int, *, least: int, parts: int) -> int:
    """Returns `size` rounded up to one of `parts` sizes per power of two, and to at least `least`.

    So few programs are compiled for all sizes.
    """
    unit = max(least, 2 ** (int(size - 1).bit_length() - 1) // parts) if size > least else least
    return int(-(-size // unit) * unit)


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
