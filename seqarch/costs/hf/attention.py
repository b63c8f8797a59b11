"""Families whose layers all attend: Llama, Mistral, Mixtral, gpt-oss."""

from collections.abc import Iterator

from seqarch.costs.hf.fields import HFFields
from seqarch.costs.hf.layers import LayerSizes
from seqarch.costs.hf.parts import attention, attention_layer, gated_mlp, heads, linear, mixture

ATTENTION = "full_attention", "sliding_attention"


def llama(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Llama, which attend to the whole context."""
    width, head = fields.count("hidden_size"), heads(fields, grouped=False)
    params = attention(width, head, fields.flag("attention_bias", False))
    params += gated_mlp(width, fields.count("intermediate_size"), fields.flag("mlp_bias", False))
    for _ in range(fields.depth()):
        yield attention_layer(params + 2 * width, head)


def mistral(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Mistral, which attend to a window unless sliding_window is null."""
    width, head = fields.count("hidden_size"), heads(fields)
    params = attention(width, head) + gated_mlp(width, fields.count("intermediate_size"))
    window = fields.optional("sliding_window", absent=4096)
    for _ in range(fields.depth()):
        yield attention_layer(params + 2 * width, head, window)


def mixtral(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Mixtral, which have experts."""
    width, head = fields.count("hidden_size"), heads(fields)
    inner, experts = fields.count("intermediate_size"), fields.count("num_local_experts")
    params = attention(width, head) + mixture(width, inner, experts) + 2 * width
    window = fields.optional("sliding_window")
    for _ in range(fields.depth()):
        yield attention_layer(params, head, window, f"{experts} experts")


def gpt_oss(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of gpt-oss: windows and the whole context in turn, sinks, experts."""
    width, head = fields.count("hidden_size"), heads(fields, 64)
    inner, experts = fields.count("intermediate_size"), fields.count("num_local_experts")
    params = attention(width, head, fields.flag("attention_bias", True)) + head.queries  # sinks
    params += experts * gated_mlp(width, inner, True) + linear(width, experts, True)
    packed = experts * gated_mlp(width, inner) if fields.quantization() == "mxfp4" else 0
    window = fields.optional("sliding_window", absent=128)
    types = layer_types(fields, [ATTENTION[1 - index % 2] for index in range(fields.depth())])
    for each in types:
        kept = window if each == "sliding_attention" else None
        layer = attention_layer(params + 2 * width, head, kept, f"{experts} experts")
        yield layer._replace(mxfp4=packed)


def layer_types(
    fields: HFFields, default: list[str], known: tuple[str, ...] = ATTENTION
) -> list[str]:
    """Returns layer_types, or the default; raises UserError for another number of layers."""
    types = fields.names("layer_types", known=known) or default
    if len(types) != len(default):
        raise fields.error(
            f"layer_types has {len(types)} names, num_hidden_layers is {len(default)}"
        )
    return types
