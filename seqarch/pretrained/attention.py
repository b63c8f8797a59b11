"""Families whose layers all attend: Llama, Mistral, Qwen2, Qwen3."""

from typing import Any

from seqarch.costs.hf.families import FAMILIES as PLANNED
from seqarch.costs.hf.fields import HFFields
from seqarch.costs.hf.layers import OutsideModel
from seqarch.costs.hf.parts import heads
from seqarch.pretrained.outside import Outside, layer
from seqarch.pretrained.parts import Parts, linear, same, transposed
from seqarch.pretrained.rotary import rotary

BUFFERS = (".rotary_emb.inv_freq",)  # which older files have beside the weights


def llama(fields: HFFields, plan: OutsideModel) -> Outside:
    """Returns Llama."""
    bias = fields.flag("attention_bias", False)
    options = dict(bias=bias, out_bias=bias, mlp_bias=fields.flag("mlp_bias", False))
    return _attention_model(fields, plan, heads(fields, grouped=False), **options)


def mistral(fields: HFFields, plan: OutsideModel) -> Outside:
    """Returns Mistral."""
    return _attention_model(fields, plan, heads(fields))


def qwen2(fields: HFFields, plan: OutsideModel) -> Outside:
    """Returns Qwen2."""
    return _attention_model(fields, plan, heads(fields), bias=True)


def qwen3(fields: HFFields, plan: OutsideModel) -> Outside:
    """Returns Qwen3."""
    bias = fields.flag("attention_bias", False)
    options = dict(bias=bias, out_bias=bias, qk_norm=True)
    return _attention_model(fields, plan, heads(fields, 128), **options)


def _attention_model(
    fields: HFFields,
    plan: OutsideModel,
    head: Any,
    *,
    bias: bool = False,
    out_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
) -> Outside:
    """Returns a model of blocks of attention and a gated MLP.

    Args:
      fields: the config.
      plan: what it needs, which has the window of each layer.
      head: its heads.
      bias: whether queries, keys and values have a bias.
      out_bias: whether the projection back has one.
      mlp_bias: whether the MLP has them.
      qk_norm: whether queries and keys are normalised.

    Raises:
      UserError: for an activation or frequencies that have no counterpart.
    """
    eps, tied = fields.number("rms_norm_eps", default=1e-6), is_tied(fields)
    fields.choice("hidden_act", default="silu", known=("silu",))
    options = dict(heads=head.queries, kv_heads=head.keys, head_dim=head.width, bias=bias)
    options |= dict(out_bias=out_bias, **rotary(fields))
    if qk_norm:
        options |= dict(qk_norm=True, norm_eps=eps)

    def block(index: int) -> Parts:
        at = f"model.layers.{index}"
        parts = {
            "mixer_norm.scale": same(f"{at}.input_layernorm.weight"),
            "mlp_norm.scale": same(f"{at}.post_attention_layernorm.weight"),
            **linear("mixer.out", f"{at}.self_attn.o_proj", out_bias),
            **mlp(at, mlp_bias),
        }
        for each in "qkv":
            parts |= linear(f"mixer.{each}", f"{at}.self_attn.{each}_proj", bias)
        for each in "qk" if qk_norm else "":
            parts[f"mixer.{each}_norm.scale"] = same(f"{at}.self_attn.{each}_norm.weight")
        return parts

    model = dict(norm_eps=eps, tied=tied, mlp=fields.count("intermediate_size"), mlp_bias=mlp_bias)
    layers = tuple(layer("attention", **options, window=each.window) for each in plan.layers)
    around = around_blocks("model.embed_tokens", "model.norm", tied)
    return Outside(layers, model, block, around, (*BUFFERS, *(["lm_head.weight"] if tied else [])))


def mlp(at: str, bias: bool, inside: str = "mlp") -> Parts:
    """Returns the parts of a gated MLP in the block `at`."""
    names = {"gate": "gate_proj", "up": "up_proj", "out": "down_proj"}
    parts: Parts = {}
    for ours, theirs in names.items():
        parts |= linear(f"mlp.{ours}", f"{at}.{inside}.{theirs}", bias)
    return parts


def is_tied(fields: HFFields) -> bool:
    """Returns whether the embedding is also the head."""
    return fields.flag("tie_word_embeddings", PLANNED[fields.get("model_type")].tied)


def around_blocks(embedding: str, norm: str, tied: bool) -> Parts:
    """Returns the parts of the embedding, the last norm and the head."""
    parts = {"embedding": same(f"{embedding}.weight"), "norm.scale": same(f"{norm}.weight")}
    return parts if tied else parts | {"head": transposed("lm_head.weight")}
