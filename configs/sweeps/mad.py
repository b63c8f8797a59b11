"""MAD's full protocol: a task in several difficulties, each at three rates and two weight decays.

    python scripts/sweep.py --config=configs/sweeps/mad.py:memorise,mamba --workdir=runs/memorise

The argument is a task of TASKS below and the layer pattern. A run passes 200 times over its
training rows, so this is for an accelerator: memorise takes 36 runs of 400 steps, the others 66 to
84 runs of up to 20,000. The score of a mixer on a task is the mean over difficulties of the best
accuracy of six runs. configs/probes.py has the same tasks at a budget for a CPU.

Source: Poli et al. 2024, "Mechanistic design and scaling of hybrid architectures", and its code
(mad-lab, `make_benchmark_mad_configs` and configs/tasks). Its lowest learning rate is 1e-6; here it
is a thousandth of the peak. Its models have LayerNorm, here RMSNorm.
"""

import ml_collections

from configs import probes
from seqarch.errors import unknown

ROWS = (6400, 3200, 1600, 800)
RECALL = dict(vocab=(32, 64, 128), length=(256, 512, 1024), training_rows=ROWS)
TASKS = {  # the options that differ from the baseline, one at a time
    "context_recall": RECALL,
    "fuzzy_recall": RECALL,
    "noisy_recall": RECALL | dict(vocab=(48, 80, 144), noise=(0.4, 0.6, 0.8)),
    "selective_copy(variant=mad)": dict(
        vocab=(32, 64, 128), length=(512, 1024), training_rows=ROWS, copied=(32, 64, 96)
    ),
    "memorise": dict(vocab=(512, 1024, 2048, 4096, 8192)),
}
BASELINE_ROWS = {"memorise": 256}  # of training; others have 12,800
EPOCHS, BATCH = 200, 128


def get_config(argument: str = "memorise,mamba") -> ml_collections.ConfigDict:
    """Returns the config that all runs share; the argument is a task, a comma, a layer pattern."""
    task, mixer = _read(argument)
    config = probes.get_config(f"{task},{mixer}")
    config.batch, config.model.dim, config.model.mlp = BATCH, 128, 336
    config.model.conv = 0
    config.model.dtype = "bfloat16"
    config.optim.warmup = 0
    config.optim.final_lr = 1e-3
    config.checkpoint.every = 0
    config.eval.every = 0
    config.evals = ml_collections.ConfigDict(dict(accuracy=dict(rows=1280)))
    return config


def get_hyper(h, argument: str = "memorise,mamba"):
    """Returns the runs: every difficulty, at each learning rate and weight decay."""
    task, _ = _read(argument)
    baseline = dict(training_rows=BASELINE_ROWS.get(task, 12800))
    changed = [{name: value} for name, values in TASKS[task].items() for value in values]
    return h.product(
        [
            [_difficulty(task, baseline | change) for change in [{}, *changed]],
            h.sweep("optim.lr", (1e-4, 5e-4, 1e-3)),
            h.sweep("optim.weight_decay", (0.0, 0.1)),
        ]
    )


def _difficulty(task: str, options: dict) -> dict:
    """Returns the fields of a task with these options, and of 200 epochs of its training rows."""
    name, _, given = task.rstrip(")").partition("(")
    made = [*filter(None, [given]), *(f"{option}={value}" for option, value in options.items())]
    text = f"{name}({','.join(made)})"
    probe = probes.find_probe(text)
    fields = {"task": text, "length": probe.length, "model.vocab": probe.vocab}
    return fields | {"steps": EPOCHS * -(-options["training_rows"] // BATCH)}


def _read(argument: str) -> tuple[str, str]:
    """Returns the task and the layer pattern; raises UserError for another task."""
    task, mixer = probes.split(argument)
    if task not in TASKS:
        raise unknown("task of MAD", task, TASKS)
    return task, mixer
