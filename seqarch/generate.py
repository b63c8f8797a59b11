"""Generates text from prompts, and from a source for each where the model is an encoder-decoder.

`seqarch.decoding` has what it is made of: states, their prefill and the decoding loop.
"""

from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from seqarch.decoding import Decoding, decode, encode, prefill
from seqarch.encoder_decoder import EncoderDecoder
from seqarch.errors import UserError
from seqarch.model import LanguageModel
from seqarch.prompts import bucket, prompt_tokens
from seqarch.sampling import Sampling
from seqarch.training.serving import init_states
from seqarch.types import Array, Float

PIECE = 64  # tokens that `generate` decodes between two checks whether every row has met `stop`


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
    prompts = [prompt_tokens(prompt, model) for prompt in prompts]
    model, longest = model.serving(), max(map(len, prompts), default=0)
    if not prompts or steps < 1:
        raise UserError(
            f"{len(prompts)} prompts, {steps} steps; give at least one prompt and one step"
        )
    pieces = -(-steps // every)
    room = bucket(max(longest, 1) + pieces * every, least=64, parts=4)
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
      model, prompts, steps: those of `stream`.
      options: `key`, `sources`, `sampling` and `stop`, as `stream` takes them.

    Raises:
      UserError: as `stream` does.
    """
    every = min(bucket(max(steps, 1), least=16, parts=1), PIECE)
    pieces = list(stream(model, prompts, steps=steps, every=every, **options))
    tokens = np.concatenate(pieces, axis=1)
    stop = options.get("stop")
    ends = [np.flatnonzero(row == stop)[:1] if stop is not None else [] for row in tokens]
    return [row[: end[0]] if len(end) else row for row, end in zip(tokens, ends)]
