"""The registry of families, and the model that a config.json describes.

    model = read_model(Path("config.json"))
    model.params, model.state_bytes(131_072)

A missing field has the default that it has in transformers, or an error names it.
"""

import reprlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from seqarch.costs.hf.attention import gpt_oss, llama, mistral, mixtral
from seqarch.costs.hf.fields import HFFields
from seqarch.costs.hf.hybrids import falcon_h1, granite, jamba, recurrent_gemma
from seqarch.costs.hf.layers import DTYPE_BYTES, LayerSizes, OutsideModel
from seqarch.costs.hf.nemotron_h import nemotron_h
from seqarch.costs.hf.qwen import qwen2, qwen3, qwen3_5, qwen3_5_moe, qwen3_moe, qwen3_next
from seqarch.costs.hf.recurrent import mamba1, mamba2
from seqarch.errors import UserError, unknown
from seqarch.files import read_json


class Family(NamedTuple):
    """A family of models.

    Attributes:
      layers: yields the layers that a config describes.
      tied: whether embeddings and head share their parameters where the config does not say so.
    """

    layers: Callable[[HFFields], Iterator[LayerSizes]]
    tied: bool = False


FAMILIES: dict[str, Family] = {  # by model_type
    "llama": Family(llama),
    "mistral": Family(mistral),
    "mixtral": Family(mixtral),
    "qwen2": Family(qwen2),
    "qwen3": Family(qwen3),
    "qwen3_moe": Family(qwen3_moe),
    "qwen3_next": Family(qwen3_next),
    "qwen3_5_text": Family(qwen3_5),
    "qwen3_5_moe_text": Family(qwen3_5_moe),
    "gpt_oss": Family(gpt_oss),
    "mamba": Family(mamba1, tied=True),
    "mamba2": Family(mamba2),
    "jamba": Family(jamba),
    "falcon_h1": Family(falcon_h1),
    "granitemoehybrid": Family(granite),
    "nemotron_h": Family(nemotron_h),
    "recurrent_gemma": Family(recurrent_gemma, tied=True),
}


def read_model(path: Path) -> OutsideModel:
    """Returns the model that a config.json describes.

    Raises:
      UserError: where there is no such file, or it holds no config of a known family.
    """
    return describe(read_values(path), str(path))


def read_values(path: Path) -> dict[str, Any]:
    """Returns the fields of a config.json; raises UserError where there are none."""
    try:
        values = read_json(path)
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}; give the config.json of a model") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a directory; give the config.json in it") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON; give the config.json of a model") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object; give the config.json of a model")
    return values


def describe(values: dict[str, Any], path: str = "config.json") -> OutsideModel:
    """Returns the model that the fields of a config describe.

    Args:
      values: the fields.
      path: the file that they are from, which errors name.

    Raises:
      UserError: where they are no config of a known family.
    """
    fields = HFFields(values, path)
    name = fields.get("model_type")
    if not isinstance(name, str):
        raise fields.error("model_type is missing; give the config.json of a model")
    if fields.get("is_encoder_decoder"):
        raise fields.error(f"{name} is an encoder-decoder model; only decoders are planned")
    text = fields.get("text_config")
    if name not in FAMILIES:
        if isinstance(text, dict) and str(text.get("model_type")) in FAMILIES:
            return _describe_text(values, text, path)
        raise fields.error(str(unknown("model_type", name[:40], FAMILIES)))
    family = FAMILIES[name]
    width = fields.count("hidden_size", "d_model")
    tied = fields.flag("tie_word_embeddings", family.tied)
    around = fields.count("vocab_size") * width * (1 if tied else 2) + width
    layers = tuple(family.layers(fields))
    dtype, notes = _dtype(fields)
    method = fields.quantization()
    if method and not any(layer.mxfp4 for layer in layers):
        notes += (f"The quantization of its weights ({method}) is left out: {dtype} is counted.",)
    positions = fields.optional("max_position_embeddings")
    return OutsideModel(name, layers, around, dtype, positions, notes)


def _describe_text(values: dict[str, Any], text: dict[str, Any], path: str) -> OutsideModel:
    """Returns the part of a model of several media that reads and writes text."""
    outer = ("tie_word_embeddings", "dtype", "torch_dtype", "quantization_config")
    shared = {name: values.get(name) for name in outer if text.get(name) is None}
    note = (
        f"Only the text model of {values['model_type']} is counted, not how it reads other media."
    )
    model = describe(text | shared, path)
    return model._replace(name=values["model_type"], notes=(*model.notes, note))


def _dtype(fields: HFFields) -> tuple[str, tuple[str, ...]]:
    """Returns the dtype of a config, and a note where it gives none."""
    given = fields.get("dtype") or fields.get("torch_dtype")
    if given is None:
        return "float32", ("The config gives no dtype; float32 is assumed.",)
    name = str(given).removeprefix("torch.")
    if name not in DTYPE_BYTES:
        raise fields.error(f"dtype is {reprlib.repr(given)}; it may be {', '.join(DTYPE_BYTES)}")
    return name, ()
