"""Nemotron-H, each of whose layers is one part alone: Mamba-2, attention, an MLP or experts."""

from collections.abc import Iterator

from seqarch.costs.hf.fields import MOST_LAYERS, HFFields
from seqarch.costs.hf.layers import LayerSizes
from seqarch.costs.hf.parts import LayerPart, Mamba2Sizes, attention, heads, linear

LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
NAMES = LETTERS | {"linear_attention": "mamba", "full_attention": "attention"}


def nemotron_h(fields: HFFields) -> Iterator[LayerSizes]:
    """Yields the layers of Nemotron-H (arXiv 2504.03624)."""
    width, head = fields.count("hidden_size"), heads(fields, 128)
    for each in _kinds(fields):
        if each == "mamba":
            part = _mamba2(fields, width)
            yield LayerSizes("mamba2", part.params + width, states=part.states)
        elif each == "attention":
            yield LayerSizes("attention", attention(width, head) + width, head.cache)
        elif each == "mlp":
            yield LayerSizes("mlp", _mlp(fields, fields.count("intermediate_size")) + width)
        else:
            experts = fields.count("n_routed_experts")
            yield LayerSizes(f"{experts} experts", _mixture(fields, width, experts) + width)


def _kinds(fields: HFFields) -> list[str]:
    """Returns the kinds of the layers, as a list or a pattern of letters gives them.

    Raises:
      UserError: where there is neither, and for an unknown letter.
    """
    known = (*NAMES.values(), "linear_attention", "full_attention")
    if named := fields.names("layers_block_type", "layer_types", known=known):
        return [NAMES.get(each, each) for each in named]
    pattern = fields.get("hybrid_override_pattern")
    if not isinstance(pattern, str) or not 0 < len(pattern) <= MOST_LAYERS:
        raise fields.error("hybrid_override_pattern is missing; give a letter for each layer")
    if other := sorted(set(pattern) - set(LETTERS)):
        raise fields.error(
            f"hybrid_override_pattern has {other[0]!r}; its letters are {', '.join(LETTERS)}"
        )
    return [LETTERS[letter] for letter in pattern]


def _mamba2(fields: HFFields, width: int) -> LayerPart:
    bias = fields.flag("use_bias", False)
    return Mamba2Sizes(
        width,
        fields.count("mamba_num_heads"),
        fields.count("mamba_head_dim"),
        fields.count("n_groups", "mamba_n_groups", default=8),
        fields.count("ssm_state_size", default=128),
        fields.count("conv_kernel", "mamba_d_conv", default=4),
        bias,
        bias,
        fields.flag("use_conv_bias", True),
    ).part()


def _mlp(fields: HFFields, inner: int) -> int:
    """Returns the parameters of an MLP, which has no gate."""
    width, bias = fields.count("hidden_size"), fields.flag("mlp_bias", False)
    return linear(width, inner, bias) + linear(inner, width, bias)


def _mixture(fields: HFFields, width: int, experts: int) -> int:
    """Returns the parameters of experts, which may work at a smaller width, and a shared one."""
    latent, bias = fields.optional("moe_latent_size"), fields.flag("mlp_bias", False)
    inner = fields.count("moe_intermediate_size")
    params = experts * 2 * inner * (latent or width) + linear(width, experts)
    params += _mlp(fields, fields.count("moe_shared_expert_intermediate_size"))
    if latent:
        params += linear(width, latent, bias) + linear(latent, width, bias)
    return params
