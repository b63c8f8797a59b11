"""Prints text that a run generates, token by token.

    python scripts/generate.py --workdir=RUN --prompt="To be, or"

Without a prompt it begins a document. --temperature=0 takes the most likely token each time. Tokens
are bytes, or those of the tokenizer that the run was trained with.
"""

import os
import sys

from absl import flags

import _root  # noqa: F401
from seqarch.runtime import cli

WORKDIR = cli.define_path("workdir", None, "The run's directory, the --workdir of train.py.")
PROMPT = flags.DEFINE_string("prompt", "", "The text to continue.")
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
    import jax

    from seqarch.config import MeshConfig
    from seqarch.errors import UserError
    from seqarch.generate import stream
    from seqarch.sampling import Sampling
    from seqarch.tasks import check_name
    from seqarch.tasks.text import tokenizer
    from seqarch.training.checkpoint import load_model
    from seqarch.training.rundir import stored_config
    from seqarch.training.serving import serve
    from seqarch.training.sharding import make_mesh

    sampling = Sampling(TEMPERATURE.value, TOP_K.value, TOP_P.value).check()
    if check_name(task := stored_config(WORKDIR.value).task) != "text":
        raise UserError(f"{WORKDIR.value} was trained on {task}; give a run of the task text")
    mesh = make_mesh(MeshConfig(data=1, fsdp=-1), jax.local_devices())
    # Passed on without a name of its own, so that the model as it was loaded is freed.
    model = serve(load_model(WORKDIR.value, ALLOW_MODULES.value, mesh=mesh)[1], mesh)
    coder, vocab = tokenizer.kept(WORKDIR.value), model.embedding.shape[0]
    if coder.vocab != vocab:
        raise UserError(
            f"{WORKDIR.value} has no tokenizer.json for its {vocab} tokens; put the model's there"
        )
    prompt = os.fsencode(PROMPT.value)  # the bytes that were typed, which may be no UTF-8
    sys.stdout.buffer.write(prompt)
    sys.stdout.buffer.flush()
    options = dict(steps=STEPS.value, sampling=sampling, stop=coder.end)
    prompts, key = [coder.encode(prompt) if prompt else []], jax.random.key(SEED.value)
    if coder.boundary <= coder.last:  # an imported model's own token, with which its texts begin
        prompts = [[coder.boundary, *prompts[0]]]
    for tokens in stream(model, prompts, key=key, **options):
        sys.stdout.buffer.write(coder.decode(tokens[0]))
        sys.stdout.buffer.flush()
    print()


if __name__ == "__main__":
    cli.run(main)
