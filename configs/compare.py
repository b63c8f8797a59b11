"""Compares the quality and memory of members with equal parameters at one budget.

    bash scripts/compare.sh
    bash scripts/compare.sh --config=configs/compare.py:long
    bash scripts/compare.sh --config=configs/compare.py:full --config.data.path=DIR --workdir=RUNS

The default is a tour that takes minutes on two CPU cores. `long` is evidence and takes less than an
hour there: each member's learning rate is chosen on validation works from the same grid; then each
member is trained from three other seeds and scored on the test works. `full` is for an accelerator:
125M parameters, context 4096, bfloat16, on a directory that scripts/prepare_data.py wrote.

Members are layer patterns as in configs/lm.py; "name = pattern" gives one a name, "; field=value"
sets fields of `model`. Each gets the MLP width with which it has as many parameters as `reference`,
or, if it sets `mlp` itself, the depth.
"""

import ml_collections


def get_config(budget: str = "tour") -> ml_collections.ConfigDict:
    """Returns the config of a comparison at the budget "tour", "long" or "full"."""
    if budget not in ("tour", "long", "full"):
        raise ValueError(f"no budget {budget!r} in configs/compare.py; give tour, long or full")
    config = ml_collections.ConfigDict()
    config.name = budget
    config.notice = "tour: one learning rate, one seed, undertrained; not evidence"
    config.reference = "attention"
    config.members = (
        "gru",
        "attention",
        "linear_attention = linear_attention(decay=data)",
        "mamba",
        "hybrid = mamba,mamba,attention",
    )
    config.lrs = ()
    config.seeds = (0,)
    config.split = "validation"

    config.steps = 200
    config.batch = 8
    config.length = 256
    config.log_every = 10
    config.profile = 0
    config.task = "text"

    config.model = ml_collections.ConfigDict()
    config.model.mixer = "attention"
    config.model.layers = 3
    config.model.dim = 96
    config.model.mlp = 256
    config.model.conv = 0
    config.model.vocab = 257
    config.model.dtype = "float32"
    config.model.precision = "highest"
    config.model.remat = False
    config.model.dropout = 0.0

    config.optim = ml_collections.ConfigDict()
    config.optim.lr = 3e-3
    config.optim.warmup = 20
    config.optim.final_lr = 0.1
    config.optim.b1 = 0.9
    config.optim.b2 = 0.95
    config.optim.weight_decay = 0.1
    config.optim.clip = 1.0
    config.optim.accumulate = 1
    config.optim.z_loss = 0.0

    config.data = ml_collections.ConfigDict()
    config.data.path = "shakespeare"

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every = 100
    config.checkpoint.keep = 1

    config.eval = ml_collections.ConfigDict()
    config.eval.every = 0
    config.eval.batch = 16
    config.eval.limit = 8192
    config.eval.stop_when_solved = False

    config.evals = ml_collections.ConfigDict()
    config.evals.quality = ml_collections.ConfigDict()
    config.evals.context = ml_collections.ConfigDict(dict(targets=0))
    config.evals.flops = ml_collections.ConfigDict()
    config.evals.speed = ml_collections.ConfigDict(dict(contexts=(256, 1024, 4096)))
    config.evals.memory = ml_collections.ConfigDict(
        dict(contexts=(1024, 16384, 1048576), compiled=(256, 1024, 4096))
    )

    config.mesh = ml_collections.ConfigDict()
    config.mesh.data = 1
    config.mesh.fsdp = -1
    config.trackers = ("tensorboard",)
    return {"tour": lambda tour: tour, "long": _long, "full": _full}[budget](config)


def _long(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config.notice = (
        "130 thousand parameters, 0.65 million tokens of Shakespeare: evidence for this budget, "
        "not for others"
    )
    config.members = (
        "gru",
        "gru-conv = gru; conv=4",
        "gru-bare = gru; mlp=0",
        "attention",
        "attention-conv = attention; conv=4",
        "attention-nope = attention(rope=None)",
        "attention-mqa = attention(kv_heads=1)",
        "attention-window = attention(window=64)",
        "linear_attention = linear_attention(decay=data)",
        "linear_attention-conv = linear_attention(decay=data); conv=4",
        "mamba",
        "mamba-conv = mamba; conv=4",
        "mamba-bare = mamba; mlp=0",
        "hybrid = mamba,attention",
    )
    config.lrs = (1e-3, 3e-3, 9e-3, 27e-3)
    config.seeds = (1, 2, 3)
    config.split = "test"
    config.steps = 320
    config.model.layers = 2
    config.model.dim = 64
    config.model.mlp = 168
    config.optim.warmup = 40
    config.checkpoint.every = 0
    config.eval.limit = 16384
    config.evals.context.targets = 16
    return config


def _full(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config.notice = "one learning rate, one seed; not evidence"
    config.reference = "attention(heads=12)"
    config.members = (
        "gru",
        "attention = attention(heads=12)",
        "linear_attention = linear_attention(heads=12,decay=data)",
        "mamba",
        "hybrid = mamba,mamba,attention(heads=12)",
    )
    config.steps = 20000
    config.batch = 64
    config.length = 4096
    config.log_every = 20
    config.model.layers = 18
    config.model.dim = 768
    config.model.mlp = 1984
    config.model.dtype = "bfloat16"
    config.model.remat = True
    config.optim.lr = 6e-4
    config.optim.warmup = 1000
    config.optim.accumulate = 8
    config.data.path = "data/prepared"
    config.checkpoint.every = 1000
    config.eval.every = 1000
    config.eval.limit = 0
    config.evals.context.targets = 8
    config.evals.memory.compiled = (1024, 4096, 16384, 65536)
    config.evals.speed.contexts = (1024, 4096, 16384, 65536)
    return config
