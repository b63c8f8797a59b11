"""Published hybrids of recurrent layers and attention, at a size that a laptop trains.

    python train.py --config=configs/hybrids.py:griffin --workdir=runs/griffin
    python eval.py --workdir=runs/griffin

The argument is a name in PRESETS. The order of layers is that of the paper and the width that of
configs/lm.py. Windows are for rows of 256 tokens: at another --config.length, give the pattern with
another window as --config.model.mixer. Every block has a gated MLP; mixtures of experts are left
out.

Expect 2.78 validation bits per byte with --config=configs/hybrids.py:griffin --config.steps=200
--config.batch=8. The state stops growing with the context in every preset but Jamba, Qwen3-Next
and Zamba, whose attention sees all tokens; evals.memory shows it. configs/sweeps/hybrids.py asks
how many attention layers recall needs, and where.
"""

import ml_collections

from configs import lm
from seqarch.errors import unknown

PRESETS = {
    # De et al. 2024, "Griffin": two recurrent blocks, then local attention with one key-value head;
    # the window is half of a training row.
    "griffin": dict(mixer="rg_lru,rg_lru,attention(kv_heads=1,window=128)", layers=6),
    # Ren et al. 2024, "Samba": Mamba and sliding windows by turns; the window is half of a row.
    "samba": dict(mixer="mamba,attention(window=128)", layers=4),
    # Lieber et al. 2024, "Jamba": one attention layer in eight, the fifth, without positions.
    "jamba": dict(
        mixer="mamba,mamba,mamba,mamba,attention(kv_heads=1,rope=None),mamba,mamba,mamba", layers=8
    ),
    # Arora et al. 2024, "Simple linear attention language models balance the recall-throughput
    # tradeoff": the paper's window of 64 tokens; its layers of gated convolutions are left out, and
    # a short convolution stands before each mixer.
    "based": dict(
        mixer="linear_attention(feature_map=taylor,feature_dim=16),attention(window=64)",
        layers=4,
        conv=4,
    ),
    # Qwen team 2025, "Qwen3-Next": three layers of the gated delta rule, then gated attention.
    "qwen3_next": dict(
        mixer="gated_deltanet,gated_deltanet,gated_deltanet,"
        "attention(gated=True,kv_heads=1,qk_norm=True)",
        layers=4,
    ),
    # Glorioso et al. 2024, "Zamba": after every six Mamba layers one attention layer without
    # positions, which is the same block each time. In the paper no other block has an MLP, and this
    # one reads the embeddings too; Zamba-2 adapts it to each place.
    "zamba": dict(
        mixer="mamba,mamba,mamba,mamba,mamba,mamba,shared attention(rope=None)", layers=14
    ),
}


def get_config(preset: str = "griffin") -> ml_collections.ConfigDict:
    """Returns the config of a language model with the layers of a preset."""
    if preset not in PRESETS:
        raise unknown("preset of configs/hybrids.py", preset, PRESETS)
    config = lm.get_config()
    config.model.update(PRESETS[preset])
    return config
