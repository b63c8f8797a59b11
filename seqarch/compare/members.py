"""Members as configs of equal parameters, state or FLOPs, read from texts.

A text is "name = layer pattern; field=value; ...".
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from seqarch import tasks
from seqarch.compare.entries import parse_entry
from seqarch.compare.matching import match_depth, match_parameters
from seqarch.compare.solving import match_flops, match_state
from seqarch.config import Config, ModelConfig, parse, to_dict
from seqarch.errors import UserError, naming, unknown
from seqarch.model import count_parameters

FIELDS = ("name", "reference", "members")  # of a sweep's config file, beside those of a run
MATCHES = ("params", "state", "flops")  # what members can have in common


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


def match_members(
    base: Config, reference: str, members: Sequence[str], match: str = "params"
) -> dict[str, Config]:
    """Returns the config of each member, matched to the reference.

    A member of a task with a source may be an encoder-decoder, as in "gru; kind=encdec;
    encoder=gru".

    Args:
      base: what all members share.
      reference: the layer pattern that members are matched to.
      members: texts, each with a layer pattern and the fields of `model` that it changes.
      match: "params": as many parameters, by the width of the MLP, or by the depth where a member
        gives its own MLP, such as 0 for a block without; "state": as many bytes of state of one
        sequence of base.length tokens, by the option that sizes a mixer's state, or by the width of
        the model; "flops": as many FLOPs of training on a token, by the width of the model.

    Returns:
      Configs by the members' names.

    Raises:
      UserError: for a text that cannot be read, a name that occurs twice, an unknown match, an
        encoder-decoder on a task without a source, and a member that cannot come close to the
        reference.
    """
    if not members:
        raise UserError("config.members is empty; give at least one layer pattern, such as 'mamba'")
    if not all(isinstance(member, str) for member in members):
        raise UserError(
            f"config.members is {members}; give layer patterns, such as ('gru', 'mamba')"
        )
    if match not in MATCHES:
        raise unknown("config.match", match, MATCHES)
    target = dataclasses.replace(base.model, mixer=reference)
    configs: dict[str, Config] = {}
    for member in members:
        entry = parse_entry(member)
        name, settings = entry.title, entry.settings
        if name in configs:
            raise UserError(f"config.members has {name!r} twice; write 'another name = {member}'")
        config = to_dict(base)
        config["model"] |= dict(mixer=entry.value) | settings
        with naming(f"the member {name!r}"):
            config = parse(config)
            model = _match(config, target, settings, match, _source(config, target))
        configs[name] = dataclasses.replace(config, model=model)
    return configs


def _source(config: Config, reference: ModelConfig) -> int:
    """Returns the tokens of a row that an encoder-decoder encodes; 0 where no model is one."""
    encodes = config.model.encodes or reference.encodes
    return tasks.layout(config.task, encodes=encodes).columns(config.length)[0]


def _match(
    config: Config, reference: ModelConfig, settings: dict[str, Any], match: str, source: int
) -> ModelConfig:
    """Returns the model of a member, matched to the reference by what `settings` leave open."""
    model = config.model
    if match == "state":
        return match_state(model, config.length, reference, source)
    if match == "flops":
        return match_flops(model, config.length, reference, source)
    if "mlp" in settings and "layers" in settings:
        return model
    target = count_parameters(reference)
    return (match_depth if "mlp" in settings else match_parameters)(model, target)
