"""The registry of families whose weights are read, and a model that a config.json describes."""

from collections.abc import Callable
from typing import Any, NamedTuple

from seqarch.config import ModelConfig
from seqarch.costs.hf.families import FAMILIES as PLANNED
from seqarch.costs.hf.families import describe
from seqarch.costs.hf.fields import HFFields
from seqarch.costs.hf.layers import OutsideModel
from seqarch.patterns import Layer
from seqarch.pretrained.attention import llama, mistral, qwen2, qwen3
from seqarch.pretrained.outside import Outside
from seqarch.pretrained.recurrent import mamba1, mamba2
from seqarch.pretrained.recurrent_gemma import recurrent_gemma


class ImportedFamily(NamedTuple):
    """A family of models.

    Attributes:
      read: takes a config and what it needs, and returns our layers and the weights.
      begin: the token that begins a document where the config does not say it, as in transformers.
      end: the token that ends one, likewise.
    """

    read: Callable[[HFFields, OutsideModel], Outside]
    begin: int | None = None
    end: int | None = None


FAMILIES: dict[str, ImportedFamily] = {  # by model_type
    "llama": ImportedFamily(llama, 1, 2),
    "mistral": ImportedFamily(mistral, 1, 2),
    "qwen2": ImportedFamily(qwen2),
    "qwen3": ImportedFamily(qwen3),
    "mamba": ImportedFamily(mamba1, 0, 0),
    "mamba2": ImportedFamily(mamba2, 0, 2),
    "recurrent_gemma": ImportedFamily(recurrent_gemma, 2, 1),
}


class Imported(NamedTuple):
    """A model that is read.

    Attributes:
      name: its model_type.
      config: ours.
      outside: how its parameters are made of weights.
      end: the token that it predicts at the end of a document.
      positions: tokens up to which its config says that it reads; None: it sets no bound.
    """

    name: str
    config: ModelConfig
    outside: Outside
    end: int
    positions: int | None


def read_import(values: dict[str, Any], path: str = "config.json", **model: Any) -> Imported:
    """Returns the model that the fields of a config describe.

    Args:
      values: the fields.
      path: the file that they are from, which errors name.
      model: further fields of ModelConfig, such as dtype.

    Raises:
      UserError: where they are no config of a known family, or say what has no counterpart.
    """
    fields = HFFields(values, path)
    plan = describe(values, path)
    _refuse(fields, plan)
    family, vocab = FAMILIES[plan.name], fields.count("vocab_size")
    outside = family.read(fields, plan)
    boundary, end = _bounds(fields, family, vocab)
    config = ModelConfig(
        mixer=",".join(map(str, period(outside.layers))),
        layers=len(outside.layers),
        dim=fields.count("hidden_size", "d_model"),
        vocab=vocab,
        boundary=boundary,
        **outside.model,
        **model,
    )
    return Imported(plan.name, config, outside, end, plan.positions)


def _refuse(fields: HFFields, plan: OutsideModel) -> None:
    """Raises UserError for what has no counterpart here."""
    mixtures = [layer.kind for layer in plan.layers if layer.kind.endswith("experts")]
    if mixtures:
        experts = mixtures[0].split(" + ")[-1]
        raise fields.error(f"{plan.name} has {experts}; a mixture of experts has no counterpart")
    if plan.name not in FAMILIES:
        planned = " (scripts/plan.py --hf can plan it)" if plan.name in PLANNED else ""
        raise fields.error(
            f"weights of {plan.name} are not read{planned}; those of {', '.join(FAMILIES)} are"
        )
    if method := fields.quantization():
        raise fields.error(f"its weights are quantised ({method}); give them in bfloat16 or more")


def _bounds(fields: HFFields, family: ImportedFamily, vocab: int) -> tuple[int, int]:
    """Returns the token that begins a document, and the one that ends it.

    A model without the first begins with the second; one without either has the vocabulary's last.
    """
    begin = _token(fields, "bos_token_id", family.begin, vocab)
    end = _token(fields, "eos_token_id", family.end, vocab)
    given = [token for token in (begin, end) if token is not None] or [vocab - 1]
    return given[0], given[-1]


def _token(fields: HFFields, name: str, default: int | None, vocab: int) -> int | None:
    """Returns a token, the first where the config lists several; None where it has none."""
    value = fields.get(name) if fields.has(name) else default
    value = value[0] if isinstance(value, list) and value else value
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < vocab:
        raise fields.error(f"{name} is {value!r:.40}; give a token below vocab_size, {vocab}")
    return value


def period(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Returns the shortest pattern that gives `layers` when it is cycled over the depth."""
    for size in range(1, len(layers)):
        if all(layer == layers[index % size] for index, layer in enumerate(layers)):
            return layers[:size]
    return layers
