"""RecurrentGemma: the RG-LRU, with attention to a window in each third layer.

Its embeddings have a factor that is rounded to bfloat16, its norms multiply by 1 + w, and its
logits are bounded.
"""

import jax.numpy as jnp
import numpy as np

from seqarch.costs.hf.fields import HFFields
from seqarch.costs.hf.layers import OutsideModel
from seqarch.patterns import Layer
from seqarch.pretrained.attention import around_blocks, is_tied, mlp
from seqarch.pretrained.outside import Outside, layer
from seqarch.pretrained.parts import Parts, Recipe, centred, linear, same, side_by_side, taps
from seqarch.pretrained.rotary import rotary

ACTIVATIONS = ("gelu_pytorch_tanh", "gelu_new")  # two names of GELU with tanh


def recurrent_gemma(fields: HFFields, plan: OutsideModel) -> Outside:
    """Returns RecurrentGemma; raises UserError for what has no counterpart."""
    width, bias = fields.count("hidden_size"), fields.flag("attention_bias", False)
    fields.choice("hidden_activation", default=ACTIVATIONS[0], known=ACTIVATIONS)
    tied = is_tied(fields)
    layers = tuple(_layer(fields, each.cache, each.window) for each in plan.layers)

    def block(index: int) -> Parts:
        at = f"model.layers.{index}"
        parts = {
            "mixer_norm.scale": centred(f"{at}.temporal_pre_norm.weight"),
            "mlp_norm.scale": centred(f"{at}.channel_pre_norm.weight"),
            **mlp(at, True, "mlp_block"),
        }
        if layers[index].mixer == "attention":
            return parts | _attention(f"{at}.temporal_block", bias)
        return parts | _rg_lru(f"{at}.temporal_block")

    model = dict(
        norm_eps=fields.number("rms_norm_eps", default=1e-6),
        mlp=fields.count("intermediate_size") // 2,
        mlp_bias=True,
        mlp_activation="gelu",
        tied=tied,
        embedding_scale=float(jnp.bfloat16(width**0.5)),
        logits_cap=fields.number("logits_soft_cap", default=30.0),
    )
    around = around_blocks("model.embed_tokens", "model.final_norm", tied)
    around["norm.scale"] = centred("model.final_norm.weight")
    return Outside(layers, model, block, around, ("lm_head.weight",) if tied else ())


def _layer(fields: HFFields, cache: int, window: int | None) -> Layer:
    """Returns the layer whose plan has a cache of so many elements a token, and a window."""
    heads = fields.count("num_attention_heads")
    if not cache:
        return layer(
            "rg_lru",
            hidden=fields.count("lru_width", default=fields.count("hidden_size")),
            blocks=heads,
            conv_width=fields.count("conv1d_width", default=4),
            unit_start=True,
        )
    return layer(
        "attention",
        heads=heads,
        kv_heads=fields.count("num_key_value_heads", default=heads),
        bias=fields.flag("attention_bias", False),
        out_bias=True,
        window=window,
        **rotary(fields, share=0.5),
    )


def _attention(at: str, bias: bool) -> Parts:
    parts = linear("mixer.out", f"{at}.o_proj", True)
    for each in "qkv":
        parts |= linear(f"mixer.{each}", f"{at}.{each}_proj", bias)
    return parts


def _rg_lru(at: str) -> Parts:
    gates = [f"{at}.rg_lru.{name}_gate" for name in ("recurrent", "input")]  # r, then i
    weights, biases = (tuple(f"{name}_{kind}" for name in gates) for kind in ("weight", "bias"))
    return {
        **side_by_side("mixer.inp", f"{at}.linear_x", f"{at}.linear_y"),
        "mixer.conv.weights": taps(f"{at}.conv_1d.weight"),
        "mixer.conv.bias": same(f"{at}.conv_1d.bias"),
        "mixer.gates.kernel": Recipe(weights, lambda *W: np.stack(W, axis=2)),
        "mixer.gates.bias": Recipe(biases, lambda *b: np.stack(b, axis=1).ravel()),
        "mixer.Lambda": Recipe((f"{at}.rg_lru.recurrent_param",), lambda p: -p),
        **linear("mixer.out", f"{at}.linear_out", True),
    }
