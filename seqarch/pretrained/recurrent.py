"""Families whose layers all recur: Mamba, Mamba-2. Their blocks have no MLP."""

import math
from collections.abc import Callable

from seqarch.costs.hf.fields import HFFields
from seqarch.costs.hf.layers import OutsideModel
from seqarch.costs.hf.recurrent import rank
from seqarch.patterns import Layer
from seqarch.pretrained.attention import around_blocks, is_tied
from seqarch.pretrained.outside import Outside, layer
from seqarch.pretrained.parts import Parts, Recipe, linear, rows, same, taps, transposed


def mamba1(fields: HFFields, plan: OutsideModel) -> Outside:
    """Returns Mamba; raises UserError for an activation without a counterpart."""
    width = fields.count("hidden_size", "d_model")
    bias, conv_bias = fields.flag("use_bias", False), fields.flag("use_conv_bias", True)
    R, N = rank(fields, "time_step_rank", width), fields.count("state_size", default=16)
    options = dict(
        expand=fields.count("expand", default=2),
        state_dim=N,
        conv_width=fields.count("conv_kernel", default=4),
        delta_rank=None if R == math.ceil(width / 16) else R,
        bias=bias,
        conv_bias=conv_bias,
    )

    def block(index: int) -> Parts:
        at = f"backbone.layers.{index}"
        parts = {
            "mixer_norm.scale": same(f"{at}.norm.weight"),
            "mixer.conv": taps(f"{at}.mixer.conv1d.weight"),
            "mixer.delta": transposed(f"{at}.mixer.dt_proj.weight"),
            "mixer.delta_bias": same(f"{at}.mixer.dt_proj.bias"),
            "mixer.log_A": same(f"{at}.mixer.A_log"),
            "mixer.D": same(f"{at}.mixer.D"),
            **rows("mixer.select", f"{at}.mixer.x_proj", 0, R + 2 * N),
            **linear("mixer.inp", f"{at}.mixer.in_proj", bias),
            **linear("mixer.out", f"{at}.mixer.out_proj", bias),
        }
        if conv_bias:
            parts["mixer.conv_bias"] = same(f"{at}.mixer.conv1d.bias")
        return parts

    return _outside(fields, (layer("mamba", **options),) * len(plan.layers), block)


def mamba2(fields: HFFields, plan: OutsideModel) -> Outside:
    """Returns Mamba-2; raises UserError for what has no counterpart."""
    limit = fields.get("time_step_limit")
    if limit not in (None, [0, math.inf]):
        raise fields.error(f"time_step_limit is {limit!r:.40}; bounds of time steps are not read")
    bias, conv_bias = fields.flag("use_bias", False), fields.flag("use_conv_bias", True)
    options = dict(
        expand=fields.count("expand", default=2),
        state_dim=fields.count("state_size", default=128),
        head_dim=fields.count("head_dim", default=64),
        groups=fields.count("n_groups", default=8),
        conv_width=fields.count("conv_kernel", default=4),
        bias=bias,
        conv_bias=conv_bias,
        norm_eps=fields.number("layer_norm_epsilon", default=1e-5),
    )
    inner = options["expand"] * fields.count("hidden_size")
    mixed = inner + 2 * options["groups"] * options["state_dim"]

    def block(index: int) -> Parts:
        at = f"backbone.layers.{index}"
        inp = f"{at}.mixer.in_proj"  # to the gate, to what the convolution mixes, to the steps
        parts = {
            "mixer_norm.scale": same(f"{at}.norm.weight"),
            "mixer.norm.scale": same(f"{at}.mixer.norm.weight"),
            "mixer.conv.weights": taps(f"{at}.mixer.conv1d.weight"),
            "mixer.decay.bias": _step_bias(f"{at}.mixer.dt_bias", inp, inner + mixed, bias),
            "mixer.decay.log_A": same(f"{at}.mixer.A_log"),
            "mixer.D": same(f"{at}.mixer.D"),
            **rows("mixer.gate", inp, 0, inner, bias),
            **rows("mixer.inp", inp, inner, inner + mixed, bias),
            **rows("mixer.delta", inp, inner + mixed, None),
            **linear("mixer.out", f"{at}.mixer.out_proj", bias),
        }
        if conv_bias:
            parts["mixer.conv.bias"] = same(f"{at}.mixer.conv1d.bias")
        return parts

    return _outside(fields, (layer("mamba2", **options),) * len(plan.layers), block)


def _step_bias(name: str, inp: str, first: int, bias: bool) -> Recipe:
    """Returns the bias of the time steps, with that of the projection to them."""
    if not bias:
        return same(name)
    return Recipe((name, f"{inp}.bias"), lambda own, projected: own + projected[first:])


def _outside(fields: HFFields, layers: tuple[Layer, ...], block: Callable[[int], Parts]) -> Outside:
    """Returns a model of blocks without an MLP, with what is around them."""
    fields.choice("hidden_act", default="silu", known=("silu",))
    tied = is_tied(fields)
    model = dict(norm_eps=fields.number("layer_norm_epsilon", default=1e-5), mlp=0, tied=tied)
    around = around_blocks("backbone.embeddings", "backbone.norm_f", tied)
    return Outside(layers, model, block, around, ("lm_head.weight",) if tied else ())
