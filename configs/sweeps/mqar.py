"""Which learning rates recall: two mixers on MQAR, each at four rates and from three seeds.

    python scripts/sweep.py --config=configs/sweeps/mqar.py --workdir=runs/sweeps/mqar
    python scripts/report.py runs/sweeps/mqar/* --out=runs/sweeps/mqar-report

The argument is the task, such as "configs/sweeps/mqar.py:mqar(pairs=8,length=128)". A run takes
about as long as the one that configs/probes.py shows. Expect attention to solve the task at 3e-3.
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
            h.sweep("optim.lr", (1e-3, 3e-3, 9e-3, 27e-3)),
            h.zipit([h.sweep("seed.model", range(3)), h.sweep("seed.data", range(3))]),
        ]
    )
