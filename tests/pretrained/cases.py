"""Tiny models of every family that is imported, with weights that follow from their names."""

import zlib

import numpy as np

VOCAB, LENGTH = 24, 14
SIZES = dict(vocab_size=VOCAB, hidden_size=16, intermediate_size=20, num_hidden_layers=2)
ATTENTION = SIZES | dict(
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-2
)
LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
MAMBA = dict(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, state_size=3)
GEMMA = SIZES | dict(
    hidden_size=24,
    num_hidden_layers=5,
    rms_norm_eps=1e-2,
    num_attention_heads=2,
    num_key_value_heads=1,
    attention_window_size=6,
    block_types=["recurrent", "recurrent", "attention"],
)

CASES = {
    "llama": dict(model_type="llama", **ATTENTION),
    "llama_biased": dict(
        model_type="llama",
        **ATTENTION | dict(num_key_value_heads=4, head_dim=6),
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        rope_theta=500.0,
        rope_scaling=LLAMA3,
    ),
    "llama_linear": dict(
        model_type="llama",
        **ATTENTION,
        rope_parameters=dict(rope_type="linear", factor=3.0, rope_theta=100.0),
    ),
    "mistral": dict(model_type="mistral", **ATTENTION, sliding_window=5),
    "qwen2": dict(model_type="qwen2", **ATTENTION),
    "qwen3": dict(
        model_type="qwen3",
        **ATTENTION,
        head_dim=10,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=5,
        max_window_layers=1,
        rope_theta=1000.0,
        rope_scaling=YARN,
    ),
    "mamba": dict(model_type="mamba", **MAMBA, conv_kernel=3, time_step_rank=2),
    "mamba_biased": dict(
        model_type="mamba",
        **MAMBA,
        use_bias=True,
        use_conv_bias=False,
        expand=1,
        tie_word_embeddings=False,
        layer_norm_epsilon=1e-2,
    ),
    "mamba2": dict(
        model_type="mamba2", **MAMBA, num_heads=4, head_dim=8, n_groups=1, use_bias=True
    ),
    "mamba2_groups": dict(
        model_type="mamba2",
        **MAMBA,
        num_heads=4,
        head_dim=4,
        expand=1,
        n_groups=2,
        use_conv_bias=False,
        conv_kernel=3,
        layer_norm_epsilon=1e-2,
        tie_word_embeddings=True,
    ),
    "recurrent_gemma": dict(model_type="recurrent_gemma", **GEMMA),
    "recurrent_gemma_biased": dict(
        model_type="recurrent_gemma",
        **GEMMA | dict(num_hidden_layers=2, block_types=["attention", "recurrent"]),
        attention_bias=True,
        logits_soft_cap=1.0,
    ),
}


def tokens(length: int = LENGTH) -> np.ndarray:
    return np.random.default_rng(0).integers(VOCAB, size=(1, length))


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the weight `name`: those of norms and D are about 1, matrices keep the variance."""
    x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        x /= np.sqrt(shape[-1])
    elif name.endswith(("norm.weight", "layernorm.weight", "norm_f.weight", ".D")):
        x = 1 + 0.2 * x
    else:
        x /= 2
    return x.astype(np.float32)
