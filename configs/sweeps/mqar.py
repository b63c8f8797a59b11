"""Which learning rates recall: two mixers on MQAR, each at five rates and from three seeds.

    python scripts/sweep.py --config=configs/sweeps/mqar.py --workdir=runs/sweeps/mqar
    python scripts/report.py runs/sweeps/mqar/* --out=runs/sweeps/mqar-report

The argument is the task, such as configs/sweeps/mqar.py:mqar(pairs=8,length=128).
"""

import ml_collections

from configs import probes


def get_config(task: str = "mqar") -> ml_collections.ConfigDict:
    """Returns the config that all runs share."""
    config = probes.get_config(f"{task},attention")
    del config.evals.speed, config.evals.memory  # those of equal programs are equal
    config.checkpoint.every = 0
    return config


def get_hyper(h):
    """Returns the runs: every combination of mixer, learning rate and seed."""
    return h.product(
        [
            h.sweep("model.mixer", ("attention", "mamba")),
            h.sweep("optim.lr", (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)),
            h.zipit([h.sweep("seed.model", range(3)), h.sweep("seed.data", range(3))]),
        ]
    )
