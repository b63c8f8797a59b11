"""Programs that claims run on the local device, each in a process of its own.

`Setup.run_isolated` starts the process.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqarch.config import Config, resolve, with_forms
from seqarch.costs.clock import steps, time_runs
from seqarch.costs.memory import state_bytes
from seqarch.costs.programs import DECODED, decode_loop_program, train_program
from seqarch.decoding import Decoding, fork, prefill
from seqarch.evals.losses import bits_per_byte, texts, windowed_losses
from seqarch.model import LanguageModel
from seqarch.tasks.text.corpus import locate
from seqarch.tasks.text.tokenizer import BOUNDARY
from seqarch.tasks.text.tokens import open_split
from seqarch.training.loading import load_model
from seqarch.training.loop import train
from seqarch.training.sharding import make_mesh
from studies.claims.swap import swapped

REPEATS = 15  # of decoding DECODED tokens, which takes but milliseconds


def decoded_per_second(config: Config, context: int, batch: int) -> float:
    """Returns the tokens per second of greedy decoding, of all rows together.

    Args:
      context: tokens at whose end the decoding stands; those before it are really read.
      batch: rows, which continue one prompt.
    """
    forms = with_forms(config.model, jax.default_backend())
    build = jax.jit(lambda key: LanguageModel(forms, rngs=nnx.Rngs(key)).serving())
    model, key = build(jax.random.key(0)), jax.random.key(0)
    prompt = np.resize(np.arange(BOUNDARY), context - DECODED).tolist()
    logits, states = prefill(model, [prompt], jax.tree.map(jnp.copy, model.init_state(1, context)))
    rows = jnp.zeros(batch, jnp.int32)
    decode = decode_loop_program(model, batch, context).compile()

    def fill() -> Decoding:
        return Decoding(logits[rows], fork(states, rows), rows.astype(bool))

    seconds = time_runs(lambda at: decode(model, at, key), fill, repeats=REPEATS).median
    return batch * DECODED / seconds


def trained_per_second(config: Config, length: int) -> float:
    """Returns the tokens per second of train steps on one row of `length` tokens."""
    config = dataclasses.replace(config, batch=1, length=length)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    config = resolve(config, mesh)
    rows = np.resize(np.arange(BOUNDARY), (1, length + 1)).astype(np.int32)
    step = train_program(config, mesh).compile()
    return length / time_runs(steps(config, mesh, step, rows, BOUNDARY)).median


def sequences(config: Config, context: int, memory: int, most: int) -> int:
    """Returns how many states of `context` tokens fit `memory` bytes: from 1 to `most`."""
    return max(1, min(most, memory // state_bytes(config.model, context)))


def bits(config: Config, run: str, mixers: Sequence[str]) -> dict[str, float]:
    """Trains a run and returns its validation bits per byte under several mixers.

    Args:
      run: the directory of the run.
      mixers: mixers that read the run's parameters beside its own.

    Returns:
      Bits per byte, by mixer.
    """
    train(config, run, progress=lambda line: None)
    given, model, _ = load_model(run)
    validation = open_split(locate(given.data.path, given.model.vocab), "validation")
    documents = texts(validation, given.eval.limit)

    def score(model: LanguageModel) -> float:
        losses = windowed_losses(model, documents, given.length, given.eval.batch, _quiet)
        return bits_per_byte(losses, documents)

    found = {given.model.mixer: score(model)}
    for mixer in mixers:
        found[mixer] = score(swapped(model, dataclasses.replace(given.model, mixer=mixer)))
    return found


def _quiet(done: int, total: int) -> None:
    pass
