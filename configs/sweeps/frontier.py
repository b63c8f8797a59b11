"""How many bytes of state does recall need? MQAR with several numbers of pairs, at several states.

    python scripts/sweep.py --config=configs/sweeps/frontier.py --workdir=runs/sweeps/frontier
    python scripts/frontier.py runs/sweeps/frontier/* --out=runs/sweeps/frontier-report

Each mixer keeps states of several sizes, by its width or by an option. The lowest seed chooses the
learning rate of each model for each number of pairs, and the other seeds are reported. --dry_run
lists the runs. The argument "full" has longer rows with up to 64 pairs, larger states, more seeds
and a longer training, for an accelerator.

Expect that attention recalls as many pairs as its window reaches, and that the states of linear
attention and Mamba have to grow with the number of pairs. The GRU does not learn to recall more
than one of four pairs in so few steps.
"""

import ml_collections

from configs import probes
from seqarch.errors import unknown

TASK = "mqar(pairs={pairs},length={length},vocab={vocab},queries={queries})"
GRIDS = {
    "small": dict(
        task=dict(length=32, vocab=32, queries=8),
        pairs=(2, 4, 8),
        models={
            "gru": (32, 64),
            "attention(window=8)": (32,),
            "attention(window=16)": (32,),
            "attention(window=32)": (16, 32),
            "linear_attention(decay=data)": (16, 32, 64),
            "mamba(state_dim=4)": (32,),
            "mamba": (16, 32),
        },
        rates=(1e-2, 3e-3),
        seeds=2,
        steps=800,
    ),
    "full": dict(
        task=dict(length=256, vocab=256, queries=64),
        pairs=(4, 8, 16, 32, 64),
        models={
            "gru": (32, 64, 128, 256, 512),
            "attention(window=64)": (64,),
            "attention(window=128)": (64,),
            "attention(window=256)": (32, 64, 128),
            "linear_attention(decay=data)": (32, 64, 128, 256),
            "mamba(state_dim=4)": (64,),
            "mamba": (32, 64, 128, 256),
        },
        rates=(1e-3, 3e-3, 1e-2),
        seeds=4,
        steps=6400,
    ),
}


def get_config(grid: str = "small") -> ml_collections.ConfigDict:
    """Returns the config that all runs of a grid share; `grid` is a name in GRIDS."""
    chosen = _grid(grid)
    config = probes.get_config(f"{_tasks(chosen)[0]},gru")
    config.steps = chosen["steps"]
    config.checkpoint.every = 0
    config.eval.every = 0
    # Of the states, the bytes of arrays as decoding makes them; no program is compiled.
    memory = dict(contexts=(), compiled=())
    config.evals = ml_collections.ConfigDict(dict(accuracy=dict(rows=512), flops={}, memory=memory))
    return config


def get_hyper(h, grid: str = "small"):
    """Returns the runs: every model on every number of pairs, at each learning rate and seed."""
    chosen = _grid(grid)
    models = [
        {"model.mixer": mixer, "model.dim": dim}
        for mixer, dims in chosen["models"].items()
        for dim in dims
    ]
    seeds = range(chosen["seeds"])
    return h.product(
        [
            models,
            h.sweep("task", _tasks(chosen)),
            h.sweep("optim.lr", chosen["rates"]),
            h.zipit([h.sweep("seed.model", seeds), h.sweep("seed.data", seeds)]),
        ]
    )


def _grid(name: str) -> dict:
    if name not in GRIDS:
        raise unknown("grid of configs/sweeps/frontier.py", name, GRIDS)
    return GRIDS[name]


def _tasks(grid: dict) -> list[str]:
    return [TASK.format(pairs=pairs, **grid["task"]) for pairs in grid["pairs"]]
