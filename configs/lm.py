"""Byte-level language modelling on real text, Shakespeare by default.

    python train.py --config=configs/lm.py:mamba --workdir=runs/mamba

Expect 2.74 validation bits per byte of --config=configs/lm.py:gru --config.steps=200
--config.batch=8, in under a minute on two CPU cores.

The argument is the layer pattern, cycled over the depth: gru, attention, linear_attention, mamba, a
hybrid such as mamba,attention,mamba, options in parentheses as in attention(window=64), or your own
package.module:Class. Every field can be set from the command line: --config.optim.lr=1e-3
--config.model.dim=256 --config.data.path=DIR.
"""

import ml_collections


def get_config(mixer: str = "mamba") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.steps = 1000
    config.batch = 16
    config.length = 256
    config.log_every = 10
    config.profile = 0

    config.model = ml_collections.ConfigDict()
    config.model.mixer = mixer
    config.model.layers = 4
    config.model.dim = 128
    config.model.mlp = 256
    config.model.conv = 0
    config.model.vocab = 257
    config.model.dtype = "float32"
    config.model.precision = "highest"
    config.model.remat = False
    config.model.dropout = 0.0

    config.optim = ml_collections.ConfigDict()
    config.optim.lr = 3e-3
    config.optim.warmup = 50
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
    config.checkpoint.every = 200
    config.checkpoint.keep = 2

    config.eval = ml_collections.ConfigDict()
    config.eval.every = 200
    config.eval.batch = 16
    config.eval.limit = 16384

    config.evals = ml_collections.ConfigDict()
    config.evals.quality = ml_collections.ConfigDict()
    config.evals.context = ml_collections.ConfigDict(dict(targets=8))
    config.evals.flops = ml_collections.ConfigDict()
    config.evals.speed = ml_collections.ConfigDict(dict(contexts=(256, 1024, 4096)))
    config.evals.memory = ml_collections.ConfigDict(
        dict(contexts=(1024, 16384, 1048576), compiled=(256, 1024, 4096))
    )

    config.mesh = ml_collections.ConfigDict()
    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
