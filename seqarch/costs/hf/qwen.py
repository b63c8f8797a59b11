"""The families of Qwen: attention in all layers, or the gated delta rule in three of four."""

import reprlib
from collections.abc import Iterator

from seqarch.costs.hf.attention import ATTENTION, layer_types
from seqarch.costs.hf.fields import HFFields
from seqarch.costs.hf.layers import LayerSizes, StateArray
from seqarch.costs.hf.parts import (
    ACCUMULATED,
    HeadSizes,
    LayerPart,
    attention,
    attention_layer,
    gated_mlp,
    heads,
    linear,
    mixture,
)


def qwen2(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Qwen2, whose queries, keys and values have a bias."""
    width, head = fields.count("hidden_size"), heads(fields)
    params = attention(width, head, True, out_bias=False)
    yield from _with_windows(fields, head, params)


def qwen3(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Qwen3, which normalise queries and keys."""
    width, head = fields.count("hidden_size"), heads(fields, 128)
    params = attention(width, head, fields.flag("attention_bias", False)) + 2 * head.width
    yield from _with_windows(fields, head, params)


def _with_windows(fields: HFFields, head: HeadSizes, params: int) -> Iterator[LayerSizes]:
    """Yields layers of attention and an MLP, of which the last may see a window alone."""
    width, depth = fields.count("hidden_size"), fields.depth()
    params += gated_mlp(width, fields.count("intermediate_size")) + 2 * width
    first, window = fields.count("max_window_layers", default=28, least=0), _window(fields)
    for each in layer_types(fields, [ATTENTION[index >= first] for index in range(depth)]):
        yield attention_layer(params, head, window if each == "sliding_attention" else None)


def _window(fields: HFFields) -> int | None:
    """Returns the window of the layers that have one; None where all see the whole context."""
    given = fields.flag("use_sliding_window", False)
    return fields.optional("sliding_window", absent=4096) if given else None


def qwen3_moe(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Qwen3's mixtures of experts."""
    width, head = fields.count("hidden_size"), heads(fields)
    attended = attention(width, head, fields.flag("attention_bias", False)) + 2 * head.width
    experts = fields.count("num_experts", "num_local_experts", least=0)
    for index in range(fields.depth()):
        then, params = _dense_or(fields, experts, index, shared=False)
        yield attention_layer(params + attended, head, _window(fields), then)


def qwen3_next(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Qwen3-Next."""
    yield from _delta_hybrid(fields, fields.count("num_experts", default=512, least=0))


def qwen3_5(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Qwen3.5's texts, without experts."""
    yield from _delta_hybrid(fields, 0)


def qwen3_5_moe(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Qwen3.5's texts, with experts."""
    yield from _delta_hybrid(fields, fields.count("num_experts", default=256))


def _delta_hybrid(fields: HFFields, experts: int) -> Iterator[LayerSizes]:
    """Yields layers of the gated delta rule, and of gated attention in each fourth."""
    width, head, delta = fields.count("hidden_size"), heads(fields, 256), _delta_rule(fields)
    attended = attention(width, head, fields.flag("attention_bias", False), gate=True)
    every = fields.count("full_attention_interval", default=4)
    known = "linear_attention", "full_attention"
    default = [known[(index + 1) % every == 0] for index in range(fields.depth())]
    for index, each in enumerate(layer_types(fields, default, known)):
        then, params = _dense_or(fields, experts, index, shared=True)
        if each == "full_attention":
            yield attention_layer(params + attended + 2 * head.width, head, then=then)
        else:
            yield LayerSizes(
                f"gated_delta_rule + {then}", params + delta.params, states=delta.states
            )


def _dense_or(fields: HFFields, experts: int, index: int, shared: bool) -> tuple[str, int]:
    """Returns what follows the mixer of a layer, and its parameters with those of both norms.

    Args:
      fields: the config.
      experts: their number in layers that have them; 0: none has.
      index: the layer's.
      shared: whether there is an expert that all tokens share.

    Raises:
      UserError: where mlp_only_layers is no list.
    """
    width, dense = fields.count("hidden_size"), fields.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise fields.error(f"mlp_only_layers is {reprlib.repr(dense)}; give a list of layers")
    step = fields.count("decoder_sparse_step", default=1)
    if not experts or index in dense or (index + 1) % step:
        return "mlp", gated_mlp(width, fields.count("intermediate_size")) + 2 * width
    params = mixture(width, fields.count("moe_intermediate_size"), experts)
    if shared:  # with its gate
        params += gated_mlp(width, fields.count("shared_expert_intermediate_size")) + width
    return f"{experts} experts", params + 2 * width


def _delta_rule(fields: HFFields) -> LayerPart:
    """Returns the gated delta rule (arXiv 2412.06464), whose state is a matrix for each head."""
    width, kernel = fields.count("hidden_size"), fields.count("linear_conv_kernel_dim", default=4)
    key, value = fields.count("linear_key_head_dim"), fields.count("linear_value_head_dim")
    count = fields.count("linear_num_value_heads")
    keys, values = fields.count("linear_num_key_heads") * key, count * value
    mixed = 2 * keys + values  # channels of the convolution: q, k, v
    params = linear(width, mixed + values) + linear(width, 2 * count) + mixed * kernel
    params += 2 * count + value + linear(values, width)  # A, the bias of the steps, the norm
    states = (
        StateArray("conv", mixed * kernel),
        StateArray("delta", count * key * value, ACCUMULATED),
    )
    return LayerPart(params, states)
