"""Members with equal parameters at one budget, in quality and memory.

    bash scripts/compare.sh
    python scripts/compare.py --config=configs/compare.py:full --config.data.path=DIR --workdir=RUNS

The default is a tour of minutes on two CPU cores; `full` is for a real accelerator: 125M parameters, context 4096, bfloat16,
on a directory that scripts/prepare_data.py wrote. Members are layer patterns as in configs/lm.py, "name = pattern" gives
one a name; each gets the MLP width that brings it to the parameters of `reference`.
"""

import ml_collections


def get_config(budget: str = "tour") -> ml_collections.ConfigDict:
    if budget not in ("tour", "full"):
        raise ValueError(f"no budget {budget!r} in configs/compare.py; give tour or full")
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

    config.steps = 200
    config.batch = 8
    config.length = 256
    config.log_every = 10
    config.profile = 0

    config.model = ml_collections.ConfigDict()
    config.model.mixer = "attention"
    config.model.layers = 3
    config.model.dim = 96
    config.model.mlp = 256
    config.model.conv = 0
    config.model.vocab = 257
    config.model.dtype = "float32"
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

    config.seed = ml_collections.ConfigDict()
    config.seed.model = 0
    config.seed.data = 0

    config.data = ml_collections.ConfigDict()
    config.data.path = "shakespeare"

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every = 100
    config.checkpoint.keep = 1

    config.eval = ml_collections.ConfigDict()
    config.eval.every = 0
    config.eval.batch = 16
    config.eval.limit = 8192
    config.eval.contexts = (1024, 16384, 1048576)
    config.eval.compiled_contexts = (256, 1024, 4096)
    config.eval.speed_contexts = (256, 1024, 4096)

    config.mesh = ml_collections.ConfigDict()
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return _full(config) if budget == "full" else config


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
    config.eval.compiled_contexts = (1024, 4096, 16384, 65536)
    config.eval.speed_contexts = (1024, 4096, 16384, 65536)
    return config
