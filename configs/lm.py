"""Byte-level language modelling on real text, Shakespeare by default.

    python train.py --config=configs/lm.py:mamba --workdir=runs/mamba

Expect 2.74 validation bits per byte with --config=configs/lm.py:gru --config.steps=200
--config.batch=8.

The argument is the layer pattern, repeated over the depth: gru, attention, linear_attention, mamba,
a hybrid such as mamba,attention,mamba, options in parentheses as in attention(window=64), or your
own package.module:Class. Every field can be set from the command line: --config.optim.lr=1e-3
--config.model.dim=256 --config.data.path=DIR. `python train.py --help` describes each.
"""

import ml_collections


def get_config(mixer: str = "mamba") -> ml_collections.ConfigDict:
    """Returns the config of a language model whose layer pattern is `mixer`."""
    config = ml_collections.ConfigDict()
    config.steps = 1000  # updates of the parameters
    config.batch = 16  # rows per step
    config.length = 256  # tokens per row
    config.log_every = 10  # steps between fetches of metrics from the device
    config.profile = 0  # the step at which a profiler trace of five steps starts; 0 for none
    config.task = "text"  # a name in seqarch.tasks.TASKS, with options in parentheses

    config.model = ml_collections.ConfigDict()
    config.model.mixer = mixer  # the layer pattern, repeated over the depth
    config.model.layers = 4  # depth
    config.model.dim = 128  # width of the residual stream
    config.model.mlp = 256  # inner width of the gated MLP in each block; 0 for none
    config.model.conv = 0  # width of a causal convolution before each mixer, in tokens; 0 for none
    config.model.vocab = 257  # tokens: 257 for bytes, else the number from prepare_data.py
    config.model.boundary = -1  # the token that begins a document; -1 for the vocabulary's last
    config.model.dtype = "float32"  # of the computation, or bfloat16; parameters are always float32
    config.model.precision = "highest"  # of products with parameters, in float32; or high, default
    config.model.remat = False  # recompute activations in the backward pass, to save memory
    config.model.dropout = 0.0  # rate in [0, 1)
    config.model.norm_eps = 1e-6  # added to the mean square in norms
    config.model.mlp_activation = "silu"  # of the MLP's gate, or gelu
    config.model.mlp_bias = False  # whether the MLP's projections have a bias
    config.model.tied = False  # whether the embedding is also the head
    config.model.embedding_scale = 1.0  # factor of the embeddings
    config.model.logits_cap = 0.0  # soft bound of the logits; 0 for none
    config.model.kind = "lm"  # or encdec, an encoder-decoder, for tasks that have a source
    config.model.encoder = ""  # the layer pattern of its encoder
    config.model.source = "attention"  # how its decoder reads the source; or summary

    config.optim = ml_collections.ConfigDict()
    config.optim.lr = 3e-3  # learning rate at the end of the warm-up, the highest
    config.optim.warmup = 50  # steps of linear warm-up; a cosine follows
    config.optim.final_lr = 0.1  # learning rate at the last step, as a fraction of lr
    config.optim.b1 = 0.9  # AdamW's decay of the mean of gradients
    config.optim.b2 = 0.95  # AdamW's decay of the mean of their squares
    config.optim.weight_decay = 0.1  # decoupled, times the learning rate
    config.optim.clip = 1.0  # largest global norm of gradients; inf for no clipping
    config.optim.accumulate = 1  # micro-batches per step
    config.optim.z_loss = 0.0  # weight of log(Z)^2 in the loss; 0 for none

    config.seed = ml_collections.ConfigDict()
    config.seed.model = 0  # of initial parameters and dropout, below 2^32
    config.seed.data = 0  # of the order in which the text is read, below 2^32

    config.data = ml_collections.ConfigDict()
    config.data.path = "shakespeare"  # or a directory that scripts/prepare_data.py wrote

    config.checkpoint = ml_collections.ConfigDict()
    config.checkpoint.every = 200  # steps between checkpoints; 0 for one at the end alone
    config.checkpoint.keep = 2  # number of the newest checkpoints that are kept

    config.eval = ml_collections.ConfigDict()
    config.eval.every = 200  # steps between validations; 0 for one at the end alone
    config.eval.batch = 16  # rows that are scored at once
    config.eval.limit = 16384  # bytes of each held-out document that are scored; 0 for all
    config.eval.stop_when_solved = False  # end training once a probe counts as solved

    # The evaluators of eval.py, each with its options.
    config.evals = ml_collections.ConfigDict()
    config.evals.quality = ml_collections.ConfigDict()
    config.evals.context = ml_collections.ConfigDict(dict(targets=8))
    config.evals.flops = ml_collections.ConfigDict()
    config.evals.speed = ml_collections.ConfigDict(dict(contexts=(256, 1024, 4096)))
    config.evals.memory = ml_collections.ConfigDict(
        dict(contexts=(1024, 16384, 1048576), compiled=(256, 1024, 4096))
    )

    config.mesh = ml_collections.ConfigDict()
    config.mesh.data = 1  # devices that split the batch; -1 for all that fsdp leaves
    config.mesh.fsdp = -1  # devices that split the batch and the parameters; -1 for the rest
    config.trackers = ("tensorboard",)  # where metrics go beside metrics.jsonl
    return config
