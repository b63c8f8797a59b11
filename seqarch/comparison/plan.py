"""What is compared: the fields of configs/compare.py, and the members' configs, brought to equal parameters."""

import ast
import dataclasses
import re
from typing import Any

from seqarch.config import Config, parse, to_dict
from seqarch.errors import UserError, unknown
from seqarch.matching import count_parameters, match_depth, match_parameters


@dataclasses.dataclass(frozen=True)
class Plan:
    """A comparison.

    notice: stands at every table and figure; it says what the numbers are not evidence of
    members: "name = layer pattern; field=value", the name and fields of `model` being optional
    reference: the layer pattern whose parameters all members are brought to
    lrs: the learning rates that each member may choose from, by its validation score; none: optim.lr as it is
    seeds: of initialisation and data order, one run for each; data orders are paired across members
    split: the held-out text that reported scores are of
    base: what all members share
    """

    name: str
    notice: str
    reference: str
    members: tuple[str, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    split: str
    base: Config

    def __post_init__(self):
        if not self.members:
            raise UserError("config.members is empty; give at least one layer pattern, such as 'mamba'")
        if not all(isinstance(member, str) for member in self.members):
            raise UserError(f"config.members is {self.members}; give layer patterns, such as ('gru', 'mamba')")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"config.seeds is {self.seeds}; give at least one seed, and each once")
        if self.lrs and (len(self.lrs) < 2 or sorted(set(self.lrs)) != list(self.lrs) or self.lrs[0] <= 0):
            raise UserError(f"config.lrs is {self.lrs}; give two or more rising learning rates, or none to take optim.lr")
        if self.lrs and {self.base.seed.model, self.base.seed.data} & set(self.seeds):
            raise UserError(f"config.seeds {self.seeds} has the seed that learning rates are chosen with; give fresh ones")
        if self.split not in ("validation", "test"):
            raise unknown("split", self.split, ("validation", "test"))


def read(given: dict[str, Any]) -> Plan:
    """The plan of a config; raises UserError where it is no comparison."""
    own = [field.name for field in dataclasses.fields(Plan) if field.name != "base"]
    if missing := [name for name in own if name not in given]:
        raise UserError(f"--config is no comparison: it has no {', '.join(missing)}; start from configs/compare.py")
    base = parse({name: value for name, value in given.items() if name not in own})
    return Plan(**{name: given[name] for name in own}, base=base)


def match(plan: Plan) -> dict[str, Config]:
    """The config of each member by name, all with the parameters of `plan.reference`.

    The width of the MLP absorbs the difference; where a member gives its own, as a block without MLP does, the depth.
    """
    target = count_parameters(dataclasses.replace(plan.base.model, mixer=plan.reference))
    configs: dict[str, Config] = {}
    for member in plan.members:
        name, settings = _read_member(member)
        if name in configs:
            raise UserError(f"config.members has {name!r} twice; write 'another name = {member}'")
        config = to_dict(plan.base)
        config["model"] |= settings
        config = parse(config)
        if "mlp" not in settings:
            model = match_parameters(config.model, target)
        else:
            model = config.model if "layers" in settings else match_depth(config.model, target)
        configs[name] = dataclasses.replace(config, model=model)
    return configs


def _read_member(text: str) -> tuple[str, dict[str, Any]]:
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
            raise UserError(f"cannot read {setting!r} in the member {text!r}; write 'pattern; field=value'")
    return name or "; ".join([pattern, *rest]), settings
