"""Prints text that a run generates, token by token.

    python scripts/generate.py --workdir=RUN --prompt="To be, or"

Without a prompt it begins a document. --temperature=0 takes the most likely token each time. Tokens
are bytes, or those of the tokenizer that the run was trained with.

The prompt of an encoder-decoder is the source, and the target is printed; without one the source is
a held-out row of the task, which --seed chooses. Of span corruption it is a text with its missing
spans marked, --prompt="To be, <0> to <1>"; of a probe it is symbols as numbers, --prompt="3 1 2".
"""

import os
import sys
from typing import TYPE_CHECKING

from absl import flags

import _root  # noqa: F401
from seqarch.runtime import cli

if TYPE_CHECKING:
    from seqarch.config import Config
    from seqarch.model import LanguageModel
    from seqarch.sampling import Sampling
    from seqarch.tasks.text.tokenizer import Tokenizer

WORKDIR = cli.define_path("workdir", None, "The run's directory, the --workdir of train.py.")
PROMPT = flags.DEFINE_string(
    "prompt", "", "The text to continue, or the source that an encoder-decoder reads."
)
STEPS = flags.DEFINE_integer(
    "steps", 500, "Tokens to generate, unless the document ends before.", lower_bound=1
)
TEMPERATURE = flags.DEFINE_float(
    "temperature", 0.8, "0 for the most likely token, 1 for the model's own distribution."
)
TOP_K = flags.DEFINE_integer("top_k", 0, "Sample from the k most likely tokens; 0 for all.")
TOP_P = flags.DEFINE_float(
    "top_p", 1.0, "Sample from the fewest tokens that hold this probability."
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the samples.", lower_bound=0, upper_bound=2**32 - 1)
ALLOW_MODULES = cli.define_allow_modules()
flags.mark_flags_as_required(["workdir"])


def main() -> None:
    from seqarch.errors import UserError
    from seqarch.sampling import Sampling
    from seqarch.tasks import check_name
    from seqarch.training.rundir import stored_config

    sampling = Sampling(TEMPERATURE.value, TOP_K.value, TOP_P.value).check()
    config = stored_config(WORKDIR.value)
    if config.model.encodes:
        answer(config, sampling)
    elif check_name(config.task) == "text":
        continue_text(config, sampling)
    else:
        raise UserError(
            f"{WORKDIR.value} was trained on {config.task} as a language model; give a run of the "
            "task text, or of an encoder-decoder"
        )


def served() -> "LanguageModel":
    """Returns the model of the run as it serves."""
    import jax

    from seqarch.config import MeshConfig
    from seqarch.training.loading import load_model
    from seqarch.training.serving import serve
    from seqarch.training.sharding import make_mesh

    mesh = make_mesh(MeshConfig(data=1, fsdp=-1), jax.local_devices())
    # Passed on without a name of its own, so that the model as it was loaded is freed.
    return serve(load_model(WORKDIR.value, ALLOW_MODULES.value, mesh=mesh)[1], mesh)


def note_length(what: str, tokens: int, trained: int) -> None:
    """Says on stderr that a model reads more tokens than it was trained on."""
    if tokens > trained:
        print(
            f"warning: the {what} has {tokens:,} tokens; in training it had at most {trained:,}",
            file=sys.stderr,
        )


def write(text: bytes) -> None:
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


def tokenizer_of(vocab: int) -> "Tokenizer":
    """Returns the run's tokenizer; raises UserError where it has not so many tokens."""
    from seqarch.errors import UserError
    from seqarch.tasks.text import tokenizer

    coder = tokenizer.kept(WORKDIR.value)
    if coder.vocab != vocab:
        raise UserError(
            f"{WORKDIR.value} has no tokenizer.json for its {vocab} tokens; put the model's there"
        )
    return coder


def continue_text(config: "Config", sampling: "Sampling") -> None:
    """Prints the prompt, then what a language model continues it with, token by token."""
    import jax

    from seqarch.generate import stream

    model = served()
    coder = tokenizer_of(model.embedding.shape[0])
    prompt = os.fsencode(PROMPT.value)  # the bytes that were typed, which may be no UTF-8
    write(prompt)
    options = dict(steps=STEPS.value, sampling=sampling, stop=coder.end)
    prompts, key = [coder.encode(prompt) if prompt else []], jax.random.key(SEED.value)
    if coder.boundary <= coder.last:  # an imported model's own token, with which its texts begin
        prompts = [[coder.boundary, *prompts[0]]]
    note_length("prompt", len(prompts[0]), config.length)
    for tokens in stream(model, prompts, key=key, **options):
        write(coder.decode(tokens[0]))
    print()


def answer(config: "Config", sampling: "Sampling") -> None:
    """Prints a source, the target that an encoder-decoder writes, and the right one if known."""
    import jax
    import numpy as np

    from seqarch.generate import generate
    from seqarch.tasks import make_task
    from seqarch.tasks.sources import sources_of
    from seqarch.tasks.text.span_corruption import SENTINELS, SpanCorruption
    from seqarch.training.sharded_step import batch_layout

    model = served()
    task, vocab = make_task(config), model.embedding.shape[0]
    of_text = isinstance(task, SpanCorruption)
    sources = sources_of(task, tokenizer_of(vocab - SENTINELS) if of_text else None)
    prompt = os.fsencode(PROMPT.value)
    asked = sources.read(prompt) if prompt else sources.draw(SEED.value)
    note_length("source", len(asked.source), batch_layout(config).columns(config.length)[0])
    write(b"source: " + sources.write(asked.source) + b"\n")
    steps = STEPS.value if asked.size is None else min(STEPS.value, asked.size)
    target = np.zeros(0, int)
    if steps:
        options = dict(steps=steps, sampling=sampling, stop=asked.stop)
        key = jax.random.key(SEED.value)
        (target,) = generate(model, [[]], sources=[asked.source], key=key, **options)
    write(b"target: " + sources.write(target) + b"\n")
    if asked.answer is not None:
        write(b"right:  " + sources.write(asked.answer) + b"\n")


if __name__ == "__main__":
    cli.run(main)
