"""Synthetic tasks, which test one ability of a mixer in minutes on a CPU.

    python train.py --config=configs/probes.py:mqar,attention --workdir=runs/recall
    python train.py --config=configs/probes.py:parity,gru --workdir=runs/parity
    python train.py "--config=configs/probes.py:mqar(pairs=8,length=128),mamba,attention" ...

The argument is the task, a name in seqarch.tasks.TASKS with its options in parentheses, then the
layer pattern as in configs/lm.py; docs/tasks.md defines all tasks. Rows are generated, so no text
is fetched but for needle. Recall and copying get a short convolution before each mixer
(model.conv), without which they need a much longer training; state tracking does without. The
learning rate stays at its peak, since a cosine over so few steps ends before models leave their
plateau.

Expect that the first command ends at a validation accuracy of 0.99, which is solved, and the second
at 1.00, also on rows four times as long. Mamba recalls less than attention within these steps.
"""

import re

import ml_collections

from configs import lm
from seqarch import tasks
from seqarch.errors import UserError
from seqarch.mixers import MIXERS
from seqarch.tasks.base import BITS_PER_BYTE
from seqarch.tasks.probe import Probe


def get_config(argument: str = "mqar,attention") -> ml_collections.ConfigDict:
    """Returns the config of a probe; the argument is the task, a comma, and the layer pattern."""
    task, mixer = (part.strip("\"' ") for part in split(argument))
    probe = find_probe(task)
    config = lm.get_config(mixer or "attention")
    config.task = task
    config.steps = 400
    config.batch = 64
    config.length = probe.length
    config.checkpoint.every = 200
    config.eval.every = 100
    config.eval.batch = 64

    config.model.layers = max(2, len(re.findall(r",(?![^()]*\))", mixer)) + 1)
    config.model.dim = 64
    config.model.mlp = 0
    config.model.conv = 0 if probe.ability == "state tracking" else 4
    config.model.vocab = probe.vocab
    config.optim.final_lr = 1.0

    config.evals = ml_collections.ConfigDict()
    config.evals.accuracy = ml_collections.ConfigDict(
        dict(rows=512, lengths=(2 * probe.length, 4 * probe.length), sizes=probe.sizes)
    )
    config.evals.flops = ml_collections.ConfigDict()
    config.evals.speed = ml_collections.ConfigDict(dict(contexts=(256, 1024)))
    config.evals.memory = ml_collections.ConfigDict(
        dict(contexts=(1024, 16384), compiled=(256, 1024))
    )
    return config


def find_probe(task: str) -> Probe:
    """Returns the probe of a task such as "mqar(pairs=8)"; raises UserError."""
    if task.partition("(")[0] in MIXERS:
        raise UserError(f"{task} is a mixer; the task comes first: TASK,MIXER")
    found = tasks.find(task)
    if not issubclass(found, Probe):
        file = "configs/lm.py" if found.score == BITS_PER_BYTE else "configs/seq2seq.py"
        raise UserError(f"{task} is no probe; use {file}")
    return found(**tasks.options(task))


def split(argument: str) -> tuple[str, str]:
    """Splits an argument at the first comma outside parentheses."""
    found = re.search(r",(?![^()]*\))", argument)
    at = found.start() if found else len(argument)
    return argument[:at], argument[at + 1 :]
