"""Parameters and states of the parts that families share.

D: width of the model, E: inner width, H: heads, K: width of a head, N: state size.
"""

from typing import NamedTuple

from seqarch.costs.hf.fields import HFFields
from seqarch.costs.hf.layers import LayerSizes, StateArray

ACCUMULATED = "float32"  # dtype of the recurrent states that transformers keeps


class LayerPart(NamedTuple):
    """A part of a layer.

    Attributes:
      params: elements of its parameters.
      states: its arrays of constant size.
    """

    params: int
    states: tuple[StateArray, ...] = ()


class HeadSizes(NamedTuple):
    """The heads of an attention layer.

    Attributes:
      queries: number of heads.
      keys: number of heads of keys and values.
      width: that of each head.
    """

    queries: int
    keys: int
    width: int

    @property
    def cache(self) -> int:
        """Elements of the keys and values of one token."""
        return 2 * self.keys * self.width


def linear(inputs: int, outputs: int, bias: bool = False) -> int:
    """Returns the parameters of a projection."""
    return outputs * (inputs + bias)


def heads(fields: HFFields, width: int | None = None, grouped: bool = True) -> HeadSizes:
    """Returns the heads that a config describes.

    Args:
      fields: the config.
      width: that of a head where the config gives none; None: the heads share the model's width.
      grouped: whether the config must say how many heads of keys there are, null for as many as of
        queries.

    Raises:
      UserError: where heads of keys do not divide those of queries, and heads not the width.
    """
    queries = fields.count("num_attention_heads")
    is_open = fields.has("num_key_value_heads") or not grouped
    keys = fields.count("num_key_value_heads", default=queries if is_open else None)
    if queries % keys:
        raise fields.error(
            f"num_key_value_heads is {keys}, which does not divide num_attention_heads, {queries}"
        )
    if fields.get("head_dim") is None and fields.get("attention_head_dim") is None:
        width = width or fields.divided("hidden_size", "num_attention_heads")
    return HeadSizes(queries, keys, fields.count("head_dim", "attention_head_dim", default=width))


def attention(
    width: int,
    heads: HeadSizes,
    bias: bool = False,
    out_bias: bool | None = None,
    gate: bool = False,
) -> int:
    """Returns the parameters of the projections of attention.

    Args:
      width: D.
      heads: its heads.
      bias: whether the projections to queries, keys and values have a bias.
      out_bias: whether the projection back has one; None: as the others.
      gate: whether the outputs are gated, by a projection as large as that to the queries.
    """
    queries = heads.queries * heads.width
    params = linear(width, queries * (1 + gate), bias)
    params += 2 * linear(width, heads.keys * heads.width, bias)
    return params + linear(queries, width, bias if out_bias is None else out_bias)


def gated_mlp(width: int, inner: int, bias: bool = False) -> int:
    """Returns the parameters of an MLP whose inner activations are gated."""
    return 2 * linear(width, inner, bias) + linear(inner, width, bias)


def mixture(width: int, inner: int, experts: int) -> int:
    """Returns the parameters of gated experts and of their router."""
    return experts * gated_mlp(width, inner) + linear(width, experts)


def attention_layer(
    params: int, heads: HeadSizes, window: int | None = None, then: str = "mlp"
) -> LayerSizes:
    """Returns a layer of attention, whose kind names its window and what follows it."""
    kind = "attention" if window is None else f"attention(window={window})"
    return LayerSizes(f"{kind} + {then}", params, heads.cache, window)


def mamba(
    width: int, inner: int, state: int, rank: int, kernel: int, bias: bool, conv_bias: bool
) -> LayerPart:
    """Returns the selective state-space model of Mamba (arXiv 2312.00752).

    Args:
      width: D.
      inner: E.
      state: N.
      rank: that of the projection to the time steps.
      kernel: width of the convolution.
      bias: whether the projections of the model's width have a bias.
      conv_bias: whether the convolution has one.
    """
    params = linear(width, 2 * inner, bias) + linear(inner, width, bias)
    params += linear(kernel, inner, conv_bias)
    params += linear(inner, rank + 2 * state) + linear(rank, inner, True)
    params += inner * state + inner  # A and D
    states = StateArray("conv", inner * kernel), StateArray("ssm", inner * state, ACCUMULATED)
    return LayerPart(params, states)


class Mamba2Sizes(NamedTuple):
    """The sizes of the state-space model of Mamba-2 (arXiv 2405.21060).

    Attributes:
      width: D.
      heads: H.
      head: width of a head; the inner width E is H times it.
      groups: number of heads of B and C.
      state: N.
      kernel: width of the convolution.
      bias: whether the projection in has a bias.
      out_bias: whether the projection out has one.
      conv_bias: whether the convolution has one.
      norm: whether its outputs are normalised.
    """

    width: int
    heads: int
    head: int
    groups: int
    state: int
    kernel: int
    bias: bool
    out_bias: bool
    conv_bias: bool
    norm: bool = True

    def part(self) -> LayerPart:
        """Returns its parameters and its states."""
        inner = self.heads * self.head
        mixed = inner + 2 * self.groups * self.state  # channels of the convolution: x, B, C
        params = linear(self.width, inner + mixed + self.heads, self.bias)
        params += linear(self.kernel, mixed, self.conv_bias)
        params += 3 * self.heads + inner * self.norm  # A, D, the bias of the time steps
        params += linear(inner, self.width, self.out_bias)
        states = (
            StateArray("conv", mixed * self.kernel),
            StateArray("ssm", inner * self.state, ACCUMULATED),
        )
        return LayerPart(params, states)
