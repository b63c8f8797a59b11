"""Families of attention and recurrence: Jamba, Falcon-H1, Granite 4, RecurrentGemma."""

import itertools
from collections.abc import Iterator

from seqarch.costs.hf.attention import layer_types
from seqarch.costs.hf.fields import HFFields
from seqarch.costs.hf.layers import LayerSizes, StateArray
from seqarch.costs.hf.parts import (
    ACCUMULATED,
    HeadSizes,
    LayerPart,
    Mamba2Sizes,
    attention,
    attention_layer,
    gated_mlp,
    heads,
    linear,
    mamba,
    mixture,
)
from seqarch.costs.hf.recurrent import rank


def jamba(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Jamba: Mamba, attention in some, experts in some (arXiv 2403.19887)."""
    width, inner = fields.count("hidden_size"), fields.count("intermediate_size")
    head, mixed = heads(fields), _jamba_mamba(fields, width)
    experts = fields.count("num_experts", default=16)
    for index in range(fields.depth()):
        then, params = "mlp", gated_mlp(width, inner) + 2 * width
        if experts > 1 and _is_chosen(fields, "expert", index, 2, 1):
            then, params = f"{experts} experts", mixture(width, inner, experts) + 2 * width
        if _is_chosen(fields, "attn", index, 8, 4):
            yield attention_layer(params + attention(width, head), head, then=then)
        else:
            yield LayerSizes(f"mamba + {then}", params + mixed.params, states=mixed.states)


def _is_chosen(fields: HFFields, name: str, index: int, period: int, offset: int) -> bool:
    """Returns whether a layer is one of those that have attention or experts."""
    period = fields.count(f"{name}_layer_period", default=period)
    return index % period == fields.count(f"{name}_layer_offset", default=offset, least=0)


def _jamba_mamba(fields: HFFields, width: int) -> LayerPart:
    """Returns the Mamba of Jamba, which also normalises time steps, B and C."""
    state, steps = fields.count("mamba_d_state", default=16), rank(fields, "mamba_dt_rank", width)
    part = mamba(
        width,
        fields.count("mamba_expand", default=2) * width,
        state,
        steps,
        fields.count("mamba_d_conv", default=4),
        fields.flag("mamba_proj_bias", False),
        fields.flag("mamba_conv_bias", True),
    )
    return part._replace(params=part.params + steps + 2 * state)


def falcon_h1(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Falcon-H1, each with attention beside Mamba-2 (arXiv 2507.22448)."""
    width, head = fields.count("hidden_size"), heads(fields)
    inner = fields.optional("mamba_d_ssm", absent=1024)
    norm = fields.flag("mamba_rms_norm", False)
    part = _mamba2(fields, inner, fields.flag("projectors_bias", False), norm)
    params = attention(width, head, fields.flag("attention_bias", False)) + part.params
    params += gated_mlp(width, fields.count("intermediate_size"), fields.flag("mlp_bias", False))
    for _ in range(fields.depth()):
        kind = "attention and mamba2 + mlp"
        yield LayerSizes(kind, params + 2 * width, head.cache, states=part.states)


def granite(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Granite 4: Mamba-2, attention in some, an MLP that experts may join."""
    width, head = fields.count("hidden_size"), heads(fields, grouped=False)
    part = _mamba2(fields, None, fields.flag("mamba_proj_bias", False), True)
    attended = attention(width, head, fields.flag("attention_bias", False))
    experts = fields.count("num_local_experts", default=0, least=0)
    params = gated_mlp(width, fields.count("shared_intermediate_size")) + 2 * width
    if experts:
        params += mixture(width, fields.count("intermediate_size"), experts)
    then, depth = f"{experts} experts" if experts else "mlp", fields.depth()
    attends = "attention", "full_attention"
    known = "mamba", "linear_attention", *attends
    for each in layer_types(fields, ["mamba"] * depth, known):
        if each in attends:
            yield attention_layer(params + attended, head, then=then)
        else:
            yield LayerSizes(f"mamba2 + {then}", params + part.params, states=part.states)


def _mamba2(fields: HFFields, inner: int | None, out_bias: bool, norm: bool) -> LayerPart:
    """Returns the Mamba-2 that fields named mamba_* describe.

    Args:
      fields: the config.
      inner: the inner width; None: as many times the model's as mamba_expand says.
      out_bias: whether the projection out has a bias.
      norm: whether its outputs are normalised.

    Raises:
      UserError: where the heads do not make up the inner width.
    """
    width, count = fields.count("hidden_size"), fields.count("mamba_n_heads")
    inner = inner or fields.count("mamba_expand", default=2) * width
    named = fields.get("mamba_d_head") not in (None, "auto")
    head = fields.count("mamba_d_head") if named else inner // count
    if head * count != inner:
        raise fields.error(
            f"mamba_n_heads is {count}, which does not make up the inner width {inner} with "
            f"heads of {head}"
        )
    return Mamba2Sizes(
        width,
        count,
        head,
        fields.count("mamba_n_groups", default=1),
        fields.count("mamba_d_state", default=256),
        fields.count("mamba_d_conv", default=4),
        fields.flag("mamba_proj_bias", False),
        out_bias,
        fields.flag("mamba_conv_bias", True),
        norm,
    ).part()


def recurrent_gemma(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of RecurrentGemma: the RG-LRU, and attention to a window in each third."""
    width, count = fields.count("hidden_size"), fields.count("num_attention_heads")
    keys = fields.count("num_key_value_heads", default=count)
    head = HeadSizes(count, keys, fields.divided("hidden_size", "num_attention_heads"))
    mixed = _rg_lru(fields, width, count)
    params = gated_mlp(width, fields.count("intermediate_size") // 2, True) + 2 * width
    attended = attention(width, head, fields.flag("attention_bias", False), True)
    window = fields.count("attention_window_size", default=2048)
    known = "recurrent", "attention"
    period = fields.names("block_types", "_block_types", known=known)
    period = period or ["recurrent", "recurrent", "attention"]
    for each in itertools.islice(itertools.cycle(period), fields.depth()):
        if each == "attention":
            yield attention_layer(params + attended, head, window)
        else:
            yield LayerSizes("rg_lru + mlp", params + mixed.params, states=mixed.states)


def _rg_lru(fields: HFFields, width: int, blocks: int) -> LayerPart:
    """Returns the recurrent block of Griffin (arXiv 2402.19427), with block-diagonal gates."""
    inner = fields.count("lru_width", default=width)
    kernel = fields.count("conv1d_width", default=4)
    params = 2 * linear(width, inner, True) + linear(inner, width, True)
    params += linear(kernel, inner, True) + inner
    params += 2 * blocks * linear(inner // blocks, inner // blocks, True)
    states = StateArray("conv", inner * (kernel - 1)), StateArray("rg_lru", inner, ACCUMULATED)
    return LayerPart(params, states)
