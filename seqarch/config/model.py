"""The fields of a config that say what the model is (see `seqarch.config.fields`)."""

import dataclasses
import math
from typing import Any

from seqarch.errors import UserError, unknown
from seqarch.layers import ACTIVATIONS
from seqarch.patterns import (
    Layer,
    Stack,
    check_option,
    options_of,
    parse_pattern,
    read_entry,
)

PRECISIONS = ("highest", "high", "default")
KINDS = ("lm", "encdec")
SOURCES = {"attention": ("heads", "kv_heads", "method", "block"), "summary": ()}  # with options
LARGEST = 2**40  # elements of an array; those of a terabyte and more


def is_too_large(shape: tuple[int, ...]) -> bool:
    """Returns whether no device holds an array; XLA ends the process where sizes overflow."""
    return math.prod(shape) >= LARGEST or max(shape, default=0) >= 2**31


def positive(config: Any, *names: str) -> None:
    """Raises UserError unless these fields of a config are at least 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(
                f"config field {name} is {getattr(config, name)}; give a number of at least 1"
            )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The language model, or the encoder-decoder.

    mixer: the layer pattern, repeated over the depth: "mamba", "mamba,mamba,attention(window=128)".
      In "mamba,mamba,shared attention" all attention layers, with their MLPs, have one set of
      parameters and a state each
    layers: depth, of the encoder too; the last repetition of the pattern may be cut short
    dim: width D of the residual stream
    mlp: inner width F of the gated MLP in each block; 0 for none
    conv: width W of a short causal convolution before each mixer; 0 for none
    vocab: tokens of the vocabulary, the boundary included: 257 for bytes, else the number that
      prepare_data.py prints
    boundary: the token that begins a document; -1 for the vocabulary's last
    dtype: dtype of the computation, "float32" or "bfloat16"; parameters are always float32
    precision: precision of products of float32 with parameters: "highest" is float32; "default" is
      the device's fastest (bfloat16 on TPUs, TF32 on GPUs); "high" is between the two. Products in
      recurrences and softmax are always float32
    remat: recompute each block's activations in the backward pass; on CPU XLA keeps those of the
      layers after the last whole repetition of the pattern
    dropout: rate of dropout after each mixer and MLP, in [0, 1)
    norm_eps: number that the norms of the residual stream add to the mean square
    mlp_activation: activation of the MLP's gate, "silu" or "gelu"
    mlp_bias: whether the MLP's projections have a bias
    tied: whether the embedding is also the head
    embedding_scale: factor of the embeddings
    logits_cap: bound c of the logits l, which are c tanh(l / c); 0 for none
    kind: "lm" is a language model, "encdec" an encoder-decoder, whose task has a source
    encoder: of an encoder-decoder, the layer pattern of its encoder: attention(causal=False), or
      causal mixers, each of which is run both ways
    source: how its decoder reads the source: "attention" is cross-attention in each block, as in
      attention(heads=8,kv_heads=2); "summary" is one vector of fixed size
    """

    mixer: str = "mamba"
    layers: int = 4
    dim: int = 128
    mlp: int = 256
    conv: int = 0
    vocab: int = 257
    boundary: int = -1
    dtype: str = "float32"
    precision: str = "highest"
    remat: bool = False
    dropout: float = 0.0
    norm_eps: float = 1e-6
    mlp_activation: str = "silu"
    mlp_bias: bool = False
    tied: bool = False
    embedding_scale: float = 1.0
    logits_cap: float = 0.0
    kind: str = "lm"
    encoder: str = ""
    source: str = "attention"

    def __post_init__(self):
        positive(self, "layers", "dim", "vocab")
        if min(self.mlp, self.conv) < 0:
            raise UserError(
                f"model.mlp is {self.mlp} and model.conv {self.conv}; give widths, or 0 for none"
            )
        widest = max(self.dim, self.mlp, self.vocab)
        if is_too_large((self.dim, widest)):
            raise UserError(
                f"model.dim is {self.dim} beside a width of {widest}; no device holds a matrix of "
                "that size: give smaller ones"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout is {self.dropout}; give a rate in [0, 1)")
        if self.dtype not in ("float32", "bfloat16"):
            raise unknown("model.dtype", self.dtype, ("float32", "bfloat16"))
        if self.precision not in PRECISIONS:
            raise unknown("model.precision", self.precision, PRECISIONS)
        self._check_parts()
        self._check_kind()

    def _check_parts(self) -> None:
        if self.mlp_activation not in ACTIVATIONS:
            raise unknown("model.mlp_activation", self.mlp_activation, ACTIVATIONS)
        if not (0 < self.norm_eps < math.inf and 0 < abs(self.embedding_scale) < math.inf):
            raise UserError(
                f"model.norm_eps is {self.norm_eps} and model.embedding_scale "
                f"{self.embedding_scale}; give a number above 0, and a finite factor other than 0"
            )
        if not -1 <= self.boundary < self.vocab:
            raise UserError(
                f"model.boundary is {self.boundary}; give a token below model.vocab, "
                f"{self.vocab}, or -1 for the last"
            )
        if not 0 <= self.logits_cap < math.inf:
            raise UserError(f"model.logits_cap is {self.logits_cap}; give a bound, or 0 for none")

    def _check_kind(self) -> None:
        if self.kind not in KINDS:
            raise unknown("model.kind", self.kind, KINDS)
        if self.encodes != bool(self.encoder):
            need = "needs an encoder" if self.encodes else "has no encoder"
            raise UserError(
                f"model.kind is {self.kind!r}, which {need}, and model.encoder is "
                f"{self.encoder!r}; give kind='encdec' with an encoder such as "
                "attention(causal=False), or kind='lm' with an empty one"
            )
        if (name := self.reading.mixer) not in SOURCES:
            raise unknown("model.source", name, SOURCES)
        for option, value in self.reading.options:
            if option not in SOURCES[name]:
                raise unknown(f"option of model.source {name}", option, SOURCES[name])
            check_option(f"model.source {name}({option}={value})", value, options_of(name)[option])

    @property
    def encodes(self) -> bool:
        """Whether it is an encoder-decoder."""
        return self.kind == "encdec"

    @property
    def reading(self) -> Layer:
        """How the decoder of an encoder-decoder reads the source, with options."""
        return read_entry(self.source, "source")

    @property
    def stack(self) -> Stack:
        """The layers of the model; raises UserError where the pattern has more than `layers`."""
        return self._stack("mixer")

    @property
    def encoder_stack(self) -> Stack:
        """The layers of the encoder; raises UserError as `stack` does."""
        return self._stack("encoder")

    def _stack(self, field: str) -> Stack:
        pattern = parse_pattern(getattr(self, field))
        if len(pattern) > self.layers:
            raise UserError(
                f"model.{field} {getattr(self, field)!r} names {len(pattern)} layers, "
                f"model.layers is {self.layers}; give as many"
            )
        repeats, rest = divmod(self.layers, len(pattern))
        return Stack(pattern, repeats, pattern[:rest])

    @property
    def patterns(self) -> dict[str, str]:
        """The layer patterns by field, those that name mixers."""
        return {name: getattr(self, name) for name in ("mixer", "encoder") if getattr(self, name)}

    @property
    def foreign(self) -> bool:
        """Whether a mixer is the user's own, named as package.module:Class."""
        return any(":" in pattern for pattern in self.patterns.values())
