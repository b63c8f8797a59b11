"""Members as configs of equal parameters, read from texts.

A text is "name = layer pattern; field=value; ...".
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from seqarch.compare.entries import name_and_pattern, parse_entry
from seqarch.compare.matching import match_depth, match_parameters
from seqarch.config import Config, ModelConfig, parse, to_dict
from seqarch.errors import UserError
from seqarch.model import count_parameters

FIELDS = ("name", "reference", "members")  # of a sweep's config file, beside those of a run


def read_members(given: dict[str, Any]) -> tuple[str, dict[str, Config]]:
    """Returns the name of a sweep over members, and their configs by name.

    Args:
      given: the fields of a config file such as configs/memory.py.

    Raises:
      UserError: where it is no such file, or a member is wrong.
    """
    if missing := [field for field in FIELDS if field not in given]:
        raise UserError(
            f"--config is no sweep over members: it has no {', '.join(missing)}; start from "
            "configs/memory.py"
        )
    base = parse({field: value for field, value in given.items() if field not in FIELDS})
    return given["name"], match_members(base, given["reference"], given["members"])


def match_members(base: Config, reference: str, members: Sequence[str]) -> dict[str, Config]:
    """Returns the config of each member, with as many parameters as the reference.

    The width of the MLP absorbs the difference; the depth does where a member gives its own width,
    such as 0 for a block without MLP.

    Args:
      base: what all members share.
      reference: the layer pattern whose parameters are counted.
      members: texts, each with a layer pattern and the fields of `model` that it changes.

    Returns:
      Configs by the members' names.

    Raises:
      UserError: for a text that cannot be read, a name that occurs twice, and parameters that no
        width or depth comes close to.
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
        settings, (name, pattern) = parse_entry(member).settings, name_and_pattern(member)
        if name in configs:
            raise UserError(f"config.members has {name!r} twice; write 'another name = {member}'")
        config = to_dict(base)
        config["model"] |= dict(mixer=pattern) | settings
        config = parse(config)
        configs[name] = dataclasses.replace(config, model=_match(config.model, target, settings))
    return configs


def _match(model: ModelConfig, target: int, settings: dict[str, Any]) -> ModelConfig:
    """Solves for the MLP width, or for the depth if `settings` give the width."""
    if "mlp" not in settings:
        return match_parameters(model, target)
    return model if "layers" in settings else match_depth(model, target)
