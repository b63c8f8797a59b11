"""Resolves what depends on the machine in a config: the form of each mixer, and the mesh's sizes.

`resolve` is called once, at the top of whatever builds a model. The form of a layer is the first of
these that exists: the one that the config names, the one that scripts/tune.py found to be the
fastest on that device, and the one that the mixer's op prefers on that platform.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
from jax.sharding import Mesh

from seqarch.config.fields import Config, MeshConfig
from seqarch.config.model import ModelConfig
from seqarch.errors import UserError
from seqarch.mixers import resolve_mixer
from seqarch.ops.forms import family
from seqarch.patterns import Layer, parse_pattern, read_pattern
from seqarch.tuning import tuned

FORM_OPTIONS = ("method", "chunk", "block")  # options of a mixer that change no result


def resolve(config: Config, mesh: Mesh) -> Config:
    """Returns `config` with the forms of its mixers and the sizes of its mesh axes filled in.

    A resolved config stays as it is. The mesh's devices need not be attached to this machine.
    """
    model = resolve_model(config.model, mesh.devices.flat[0])
    return dataclasses.replace(config, model=model, mesh=MeshConfig(**mesh.shape))


def resolve_model(model: ModelConfig, device: jax.Device) -> ModelConfig:
    """Returns `model` with the forms of its mixers filled in, as they are chosen for `device`."""
    return with_forms(model, family(device.platform), tuned(device))


def with_forms(
    model: ModelConfig, platform: str, tuned: Mapping[str, dict[str, Any]] = MappingProxyType({})
) -> ModelConfig:
    """Returns `model` with method="auto" of every mixer replaced by the name of a form.

    Args:
      model: forms that it names stay.
      platform: "cpu", "gpu" or "tpu": the target of the program, which may differ from the host.
      tuned: by mixer, the fastest options on the device, which take precedence.

    Raises:
      UserError: where `model` names an unknown form, or one that `platform` lacks.
    """

    def choose(layer: Layer) -> dict[str, Any]:
        return tuned.get(layer.mixer) or {"method": resolve_mixer(layer.mixer).forms.auto(platform)}

    def with_form(layer: Layer) -> Layer:
        _check_platform(layer, platform)
        return _with_form(layer, choose)

    return _each_layer(model, with_form)


def _check_platform(layer: Layer, platform: str) -> None:
    """Raises UserError for a layer whose form is a kernel of another platform."""
    forms, method = resolve_mixer(layer.mixer).forms, dict(layer.options).get("method")
    if forms and method in forms.kernels and method not in forms.on(platform):
        raise UserError(
            f"the form {method!r} of {layer.mixer} is a kernel for a "
            f"{forms.kernels[method].platform.upper()}, not for a {platform.upper()}; give one of "
            f"{', '.join(forms.on(platform))}"
        )


def with_recorded_forms(model: ModelConfig, recorded: Mapping[str, str]) -> ModelConfig:
    """Returns `model` with the forms of recorded layer patterns, where it names none itself.

    Args:
      model: any.
      recorded: patterns by field (`recorded_forms`). Only FORM_OPTIONS are taken from them; no
        module that they name is imported.

    Raises:
      UserError: where a recorded text is no pattern, or has other mixers.
    """
    found = {}
    for field, pattern in recorded.items():
        found[field] = _with_recorded(getattr(model, field), pattern)
    return dataclasses.replace(model, **found)


def recorded_forms(model: ModelConfig) -> dict[str, str]:
    """Returns the layer patterns by field of a resolved model, for `with_recorded_forms`."""
    return {field: getattr(model, field) for field in _fields(model)}


def _with_recorded(own: str, recorded: str) -> str:
    theirs, ours = read_pattern(recorded), parse_pattern(own)
    if [layer.mixer for layer in theirs] != [layer.mixer for layer in ours]:
        raise UserError(f"{recorded!r} is not of the mixers of {own!r}")
    layers = []
    for layer, source in zip(ours, theirs, strict=True):
        form = {name: value for name, value in source.options if name in FORM_OPTIONS}
        layers.append(_with_form(layer, lambda _, form=form: form))
    pattern = ",".join(map(str, layers))
    parse_pattern(pattern)
    return pattern


def without_forms(model: ModelConfig) -> ModelConfig:
    """Returns `model` without the option `method` of its mixers.

    A form arranges a whole sequence, so single steps are the same program for all forms.
    """

    def drop(layer: Layer) -> Layer:
        if getattr(resolve_mixer(layer.mixer), "forms", None) is None:
            return layer
        kept = tuple(option for option in layer.options if option[0] != "method")
        return dataclasses.replace(layer, options=kept)

    return _each_layer(model, drop)


def _with_form(layer: Layer, choose: Callable[[Layer], dict[str, Any]]) -> Layer:
    """Returns `layer` with the options of `choose`, where its mixer has forms and it names none."""
    forms, given = getattr(resolve_mixer(layer.mixer), "forms", None), dict(layer.options)
    if forms is None:
        return layer
    if given.get("method", "auto") != "auto":
        forms.pick(given["method"])  # refuses an unknown one, before anything is built
        return layer
    given.pop("method", None)
    options = given | choose(layer) | given
    return dataclasses.replace(layer, options=tuple(options.items()))


def _each_layer(model: ModelConfig, change: Callable[[Layer], Layer]) -> ModelConfig:
    changed = {}
    for field in _fields(model):
        layers = parse_pattern(getattr(model, field))
        changed[field] = ",".join(str(change(layer)) for layer in layers)
    return dataclasses.replace(model, **changed)


def _fields(model: ModelConfig) -> list[str]:
    """Returns the fields whose layers have forms; cross-attention has those of `attention`."""
    crossed = model.encodes and model.reading.mixer == "attention"
    return [*model.patterns, *(["source"] if crossed else [])]
