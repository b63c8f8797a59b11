"""How many layers of a recurrent model must be attention for recall, and which?

    python scripts/sweep.py --config=configs/sweeps/hybrids.py --workdir=runs/sweeps/hybrids
    python scripts/report.py runs/sweeps/hybrids/* --out=runs/sweeps/hybrids-report

The argument is the task and the mixer of the other layers, as in configs/probes.py, such as
"configs/sweeps/hybrids.py:mqar(pairs=8,length=128),linear_attention". Models have four layers, of
which none, one, two or all are attention, at the places in PLACES; each has two learning rates and
three seeds.

The model without attention and the one of attention alone bound what the others can show: compare
each share with the next smaller one, and within a share the places with each other.
"""

import ml_collections

from configs import probes
from seqarch.errors import UserError
from seqarch.patterns import read_pattern

DEPTH = 4
# Indices of the attention layers, from the bottom up.
PLACES = ((), (0,), (1,), (2,), (3,), (0, 1), (0, 2), (1, 3), (2, 3), (0, 1, 2, 3))


def get_config(argument: str = "mqar,mamba") -> ml_collections.ConfigDict:
    """Returns the config that all runs share."""
    config = probes.get_config(argument)
    if len(read_pattern(config.model.mixer)) > 1:
        raise UserError(
            f"configs/sweeps/hybrids.py places attention among layers of one mixer; "
            f"{config.model.mixer!r} has several"
        )
    config.model.layers = DEPTH
    config.checkpoint.every = 0
    del config.evals.speed  # that of equal programs is equal
    return config


def get_hyper(h, argument: str = "mqar,mamba"):
    """Returns the runs: attention at each of PLACES, at every learning rate and seed."""
    mixer = get_config(argument).model.mixer
    patterns = dict.fromkeys(place_attention(mixer, places) for places in PLACES)
    return h.product(
        [
            h.sweep("model.mixer", patterns),
            h.sweep("optim.lr", (1e-3, 3e-3)),
            h.zipit([h.sweep("seed.model", range(3)), h.sweep("seed.data", range(3))]),
        ]
    )


def place_attention(mixer: str, places: tuple[int, ...]) -> str:
    """Returns the pattern of DEPTH layers with attention at `places`, and `mixer` elsewhere."""
    return ",".join("attention" if layer in places else mixer for layer in range(DEPTH))
