"""Families with attention in some layers: Qwen3-Next, Jamba, RecurrentGemma; Falcon-H1 in all."""

import itertools
from collections.abc import Iterator

from seqarch.costs.hf.attention import layer_types
from seqarch.costs.hf.fields import Fields
from seqarch.costs.hf.layers import Layer, State
from seqarch.costs.hf.parts import (
    ACCUMULATED,
    Heads,
    Mamba2,
    Part,
    attention,
    attention_layer,
    gated_mlp,
    heads,
    linear,
    mamba,
    mixture,
)
from seqarch.costs.hf.recurrent import rank


def qwen3_next(fields: Fields) -> Iterator[Layer]:
    """Yields the layers of Qwen3-Next: the gated delta rule, and attention in each fourth."""
    width, head, delta = fields.count("hidden_size"), heads(fields, 256), _delta_rule(fields)
    attended = attention(width, head, fields.flag("attention_bias", False), gate=True)
    experts = fields.count("num_experts", default=512, least=0)
    step = fields.count("decoder_sparse_step", default=1)
    dense = fields.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise fields.error(f"mlp_only_layers is {dense!r}; give a list of layers")
    every = fields.count("full_attention_interval", default=4)
    known = "linear_attention", "full_attention"
    default = [known[(index + 1) % every == 0] for index in range(fields.depth())]
    for index, each in enumerate(layer_types(fields, default, known)):
        if experts and index not in dense and (index + 1) % step == 0:
            then, params = f"{experts} experts", _shared_mixture(fields, width, experts)
        else:
            then, params = "mlp", gated_mlp(width, fields.count("intermediate_size"))
        params += 2 * width
        if each == "full_attention":
            yield attention_layer(params + attended + 2 * head.width, head, then=then)
        else:
            yield Layer(f"gated_delta_rule + {then}", params + delta.params, states=delta.states)


def _shared_mixture(fields: Fields, width: int, experts: int) -> int:
    """Returns the parameters of experts, and of the one that all tokens share, with its gate."""
    shared = fields.count("shared_expert_intermediate_size")
    routed = mixture(width, fields.count("moe_intermediate_size"), experts)
    return routed + gated_mlp(width, shared) + width


def _delta_rule(fields: Fields) -> Part:
    """Returns the gated delta rule (arXiv 2412.06464), whose state is a matrix for each head."""
    width, kernel = fields.count("hidden_size"), fields.count("linear_conv_kernel_dim", default=4)
    key, value = fields.count("linear_key_head_dim"), fields.count("linear_value_head_dim")
    count = fields.count("linear_num_value_heads")
    keys, values = fields.count("linear_num_key_heads") * key, count * value
    mixed = 2 * keys + values  # channels of the convolution: q, k, v
    params = linear(width, mixed + values) + linear(width, 2 * count) + mixed * kernel
    params += 2 * count + value + linear(values, width)  # A, the bias of the steps, the norm
    states = State("conv", mixed * kernel), State("delta", count * key * value, ACCUMULATED)
    return Part(params, states)


def jamba(fields: Fields) -> Iterator[Layer]:
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
            yield Layer(f"mamba + {then}", params + mixed.params, states=mixed.states)


def _is_chosen(fields: Fields, name: str, index: int, period: int, offset: int) -> bool:
    """Returns whether a layer is one of those that have attention or experts."""
    period = fields.count(f"{name}_layer_period", default=period)
    return index % period == fields.count(f"{name}_layer_offset", default=offset, least=0)


def _jamba_mamba(fields: Fields, width: int) -> Part:
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


def falcon_h1(fields: Fields) -> Iterator[Layer]:
    """Yields the layers of Falcon-H1, each with attention beside Mamba-2."""
    width, head = fields.count("hidden_size"), heads(fields)
    part = _falcon_mamba2(fields, width)
    params = attention(width, head, fields.flag("attention_bias", False)) + part.params
    params += gated_mlp(width, fields.count("intermediate_size"), fields.flag("mlp_bias", False))
    for _ in range(fields.depth()):
        kind = "attention and mamba2 + mlp"
        yield Layer(kind, params + 2 * width, head.cache, states=part.states)


def _falcon_mamba2(fields: Fields, width: int) -> Part:
    count = fields.count("mamba_n_heads")
    inner = fields.optional("mamba_d_ssm") or fields.count("mamba_expand", default=2) * width
    named = fields.get("mamba_d_head") not in (None, "auto")
    head = fields.count("mamba_d_head") if named else inner // count
    if head * count != inner:
        raise fields.error(
            f"mamba_n_heads is {count}, which does not make up the inner width {inner} with "
            f"heads of {head}"
        )
    return Mamba2(
        width,
        count,
        head,
        fields.count("mamba_n_groups", default=1),
        fields.count("mamba_d_state", default=256),
        fields.count("mamba_d_conv", default=4),
        fields.flag("mamba_proj_bias", False),
        fields.flag("projectors_bias", False),
        fields.flag("mamba_conv_bias", True),
        fields.flag("mamba_rms_norm", False),
    ).part()


def recurrent_gemma(fields: Fields) -> Iterator[Layer]:
    """Yields the layers of RecurrentGemma: the RG-LRU, and attention to a window in each third."""
    width, count = fields.count("hidden_size"), fields.count("num_attention_heads")
    keys = fields.count("num_key_value_heads", default=count)
    head = Heads(count, keys, fields.divided("hidden_size", "num_attention_heads"))
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
            yield Layer("rg_lru + mlp", params + mixed.params, states=mixed.states)


def _rg_lru(fields: Fields, width: int, blocks: int) -> Part:
    """Returns the recurrent block of Griffin (arXiv 2402.19427), with block-diagonal gates."""
    inner = fields.count("lru_width", default=width)
    kernel = fields.count("conv1d_width", default=4)
    params = 2 * linear(width, inner, True) + linear(inner, width, True)
    params += linear(kernel, inner, True) + inner
    params += 2 * blocks * linear(inner // blocks, inner // blocks, True)
    states = State("conv", inner * (kernel - 1)), State("rg_lru", inner, ACCUMULATED)
    return Part(params, states)
