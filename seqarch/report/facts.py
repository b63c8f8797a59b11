"""How much state a number of facts needs, as lines of text."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from seqarch.report.formats import format_bytes, show
from seqarch.report.frontier import interval
from seqarch.stats.law import Estimate


class Need(NamedTuple):
    """The state that a law of errors asks for, and a model that keeps it.

    Attributes:
      facts: the size of the task.
      state: bytes of state at which the law reaches the accuracy.
      mixer: the layer pattern of the model.
      width: the width of the model.
      kept: bytes of state that the model keeps.
      setting: what the law rests on (seqarch.evals.frontier).
      config: fields of a config that all runs behind the law share, by dotted name.
      revision: of these runs.
    """

    facts: int
    state: Estimate
    mixer: str
    width: int
    kept: int
    setting: dict[str, Any]
    config: dict[str, Any]
    revision: str


def need_lines(need: Need) -> Iterator[str]:
    """Yields the state with its interval, the model that keeps it, and what the law rests on."""
    setting, config = need.setting, need.config
    reached, name = show(setting["reached"], "percent"), setting["size"]
    yield (
        f"{need.facts} facts need {interval(need.state, 'bytes')} of state for {reached} right "
        f"answers ({name} of {setting['task']}; in brackets: 95 %)"
    )
    yield f"{need.mixer} with model.dim={need.width} keeps {format_bytes(need.kept)}"
    sizes, widths = setting["sizes"], setting["widths"]
    yield (
        f"rests on {setting['reported']} runs at revision {show(need.revision, 'revision')}: "
        f"{min(sizes):g} to {max(sizes):g} {name}, widths {min(widths)} to {max(widths)}, "
        f"{config['model.layers']} layers, convolution {config['model.conv']}, MLP "
        f"{config['model.mlp']}, {config['model.dtype']}, rows of {config['length']} tokens, "
        f"{config['steps']:,} steps of {config['batch']} rows"
    )
