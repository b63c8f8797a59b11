"""Measures the memory of training, prefill and decoding against the context, at equal parameters.

    python scripts/memory.py --config=configs/memory.py --targets=local,tpu-v5e,gpu-h100

The argument is the size: 1m (the default), 125m, 1.3b or 8b. Programs are compiled, and nothing is
allocated. Members are layer patterns as in configs/lm.py; "name = pattern" gives one a name.
Each gets the MLP width with which it has as many parameters as `reference`.
"""

import ml_collections

from configs import lm
from seqarch.errors import unknown

SIZES = {  # layers, width, heads, key/value heads, MLP, vocabulary
    "1m": (2, 192, 4, 4, 512, 257),
    "125m": (12, 768, 12, 12, 2048, 32000),
    "1.3b": (24, 2048, 16, 16, 5504, 32000),
    "8b": (32, 4096, 32, 8, 14336, 128256),
}


def get_config(size: str = "1m") -> ml_collections.ConfigDict:
    """Returns the config of a memory sweep at a size in SIZES."""
    if size not in SIZES:
        raise unknown("size of configs/memory.py", size, SIZES)
    layers, dim, heads, kv_heads, mlp, vocab = SIZES[size]
    config = lm.get_config()
    few_heads = 2 if size == "1m" else max(heads // 4, 1)
    config.name = f"memory-{size}"
    config.reference = f"attention(heads={heads},kv_heads={kv_heads})"
    config.members = (
        "gru",
        f"linear_attention = linear_attention(heads={heads})",
        "mamba",
        f"attention materialised = attention(heads={heads},method=materialised)",
        f"attention multi-head = attention(heads={heads})",
        f"attention grouped = attention(heads={heads},kv_heads={few_heads})",
        f"attention multi-query = attention(heads={heads},kv_heads=1)",
        f"attention window 1024 = attention(heads={heads},window=1024)",
        f"hybrid = mamba,attention(heads={heads},kv_heads={kv_heads})",
    )
    config.length = 512  # tokens of a segment of a prefill
    config.model.layers = layers
    config.model.dim = dim
    config.model.mlp = mlp
    config.model.vocab = vocab
    config.model.dtype = "float32" if size == "1m" else "bfloat16"
    config.model.precision = "highest"
    config.model.remat = size != "1m"
    return config
