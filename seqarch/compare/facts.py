"""Inverts a law of errors: how much state a number of facts needs, and which model keeps it."""

import math
from pathlib import Path
from typing import Any

from seqarch import records
from seqarch.compare.solving import growth_field, least_enough, width_field
from seqarch.config import Config, ModelConfig, flatten
from seqarch.costs.memory import state_bytes
from seqarch.errors import UserError
from seqarch.evals.frontier import NAME, read_law
from seqarch.evals.frontier_runs import mixer_of
from seqarch.files import has_shape
from seqarch.records import Results
from seqarch.report.facts import Need
from seqarch.report.formats import format_bytes
from seqarch.stats.law import Estimate

SETTING = {  # what the facts of a frontier say of its runs
    "task": str,
    "size": str,
    "sizes": [int | float],
    "states": [int | float],
    "widths": [int],
    "reported": int,
    "reached": float,
}


def read_frontiers(path: Path) -> list[Results]:
    """Returns the frontiers of mixers that a records file holds.

    Raises:
      UserError: where there is no such file, it holds none, or one without its setting.
    """
    if not path.exists():
        raise UserError(
            f"there is no {path}; scripts/frontier.py writes it from the runs of "
            "configs/sweeps/frontier.py, or give --law=RECORDS"
        )
    found = [each for each in records.read(path).results if each.source.kind == NAME]
    if not found:
        raise UserError(f"{path} holds no frontier; give a file that scripts/frontier.py wrote")
    for each in found:
        setting = each.source.facts.get(NAME)
        if not has_shape(setting, SETTING) or not all(setting[name] for name in SETTING):
            raise UserError(
                f"{path} does not say in which setting the law of {each.source.member} was "
                "measured; write it anew by scripts/frontier.py"
            )
    return found


def needed(frontiers: list[Results], config: Config, facts: int) -> Need:
    """Returns the state that `facts` facts need, and the smallest model that keeps it.

    The model is that of the runs behind the law, with the mixer of `config`. Its width is solved,
    or, where the state of the mixer grows with the context, the option that bounds it.

    Args:
      frontiers: of mixers.
      config: its mixer and its dtype are asked about, and its width where an option is solved.
      facts: the size of the task.

    Raises:
      UserError: for a mixer that has no law, and beyond the measured sizes, widths and dtypes.
    """
    found = _find(frontiers, config.model)
    setting, shared = found.source.facts[NAME], found.source.config
    _check_within(facts, setting["sizes"], f"{facts} facts", setting["size"])
    state = _state(found, facts)
    given = dict(mixer=config.model.mixer, dim=config.model.dim)
    model = ModelConfig(**dict(shared["model"]) | given)
    length = shared["length"]
    field = growth_field(model) or width_field(model)

    def measure(model: ModelConfig) -> float:
        return state_bytes(model, length)

    _check_within(state.value, setting["states"], f"{format_bytes(state.value)} of state", "bytes")
    model = field.set(least_enough(field, measure, state.value))
    _check_within(model.dim, setting["widths"], f"a width of {model.dim}", "wide")
    if (kept := state_bytes(model, length)) < state.value:
        raise UserError(
            f"{config.model.mixer} of width {model.dim} keeps at most {format_bytes(kept)} over "
            f"{length} tokens, and the law asks for {format_bytes(state.value)}; give a larger "
            "model.dim"
        )
    about = flatten(shared), found.source.revision
    return Need(facts, state, model.mixer, model.dim, kept, setting, *about)


def _find(frontiers: list[Results], model: ModelConfig) -> Results:
    """Returns the frontier of a model's mixer, which has a law for such models."""
    if model.encodes:
        raise UserError(
            "the law is that of language models, and model.kind is 'encdec'; give a config of "
            "configs/probes.py"
        )
    laws = {each.source.member: each for each in frontiers if read_law(each)}
    if (mixer := mixer_of(model.mixer)) not in laws:
        raise UserError(
            f"no law was measured for the mixer {mixer!r}; there is one for "
            f"{', '.join(laws) or 'none'}"
        )
    if model.dtype != (dtype := laws[mixer].source.config["model"]["dtype"]):
        raise UserError(
            f"the law was measured in {dtype}, the config has {model.dtype}; give "
            f"--config.model.dtype={dtype}"
        )
    return laws[mixer]


def _state(frontier: Results, facts: int) -> Estimate:
    """Returns the bytes of state that the law of a frontier asks for."""
    state = read_law(frontier).state(facts, 1 - frontier.source.facts[NAME]["reached"])
    if state is None or math.isinf(state.value):
        hardly = "did not fall" if state is None else "hardly fell"
        raise UserError(
            f"errors of {frontier.source.member} {hardly} with its state, so the law names no "
            "state that is enough"
        )
    return state


def _check_within(value: float, measured: list[Any], what: str, unit: str) -> None:
    """Raises UserError where a value is outside what was measured."""
    low, high = min(measured), max(measured)
    if not low <= value <= high:
        raise UserError(
            f"{what} would be an extrapolation: the law was measured for {low:g} to {high:g} {unit}"
        )
