"""Members of a comparison as texts, "name = layer pattern; field=value; ...", and as configs of
equal parameters.
"""

import ast
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from seqarch.compare.matching import match_depth, match_parameters
from seqarch.config import Config, ModelConfig, parse, to_dict
from seqarch.errors import UserError
from seqarch.model import count_parameters


def match_members(base: Config, reference: str, members: Sequence[str]) -> dict[str, Config]:
    """The config of each member by name: `base` with its layer pattern and the fields of `model`
    that it gives, and with the parameters of the layer pattern `reference`.

    The width of the MLP absorbs the difference; where a member gives its own, as a block without
    MLP does, the depth.
    """
    if not members:
        raise UserError("config.members is empty; give at least one layer pattern, such as 'mamba'")
    if not all(isinstance(member, str) for member in members):
        raise UserError(
            f"config.members is {members}; give layer patterns, such as ('gru', 'mamba')"
        )
    target = count_parameters(dataclasses.replace(base.model, mixer=reference))
    configs: dict[str, Config] = {}
    for member in members:
        name, settings = _read(member)
        if name in configs:
            raise UserError(f"config.members has {name!r} twice; write 'another name = {member}'")
        config = to_dict(base)
        config["model"] |= settings
        config = parse(config)
        configs[name] = dataclasses.replace(config, model=_match(config.model, target, settings))
    return configs


def _match(model: ModelConfig, target: int, settings: dict[str, Any]) -> ModelConfig:
    """By what `settings` leave open."""
    if "mlp" not in settings:
        return match_parameters(model, target)
    return model if "layers" in settings else match_depth(model, target)


def _read(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the fields of `model` of "name = pattern; field=value; field=value"."""
    pattern, *rest = (part.strip() for part in text.split(";"))
    name, pattern = re.fullmatch(r"(?:([^=(,:/]+?)\s*=)?\s*(.*)", pattern).groups()
    if name and not name.strip("."):
        raise UserError(f"the member {text!r} has no name that a directory can have; give another")
    settings: dict[str, Any] = {"mixer": pattern}
    for setting in rest:
        field, equals, value = (part.strip() for part in setting.partition("="))
        try:
            settings[field] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[field] = value
        if not (equals and field and value):
            raise UserError(
                f"cannot read {setting!r} in the member {text!r}; write 'pattern; field=value'"
            )
    return name or "; ".join([pattern, *rest]), settings
