"""The memory that models of runs need, such as of imported ones (docs/import.md).

    python scripts/memory.py --config=configs/runs.py:runs/mamba130m,runs/smollm135m

The argument is the directories of runs. Each is a member as it is: nothing is matched, and programs
are compiled without the weights.
"""

import dataclasses
import re
from pathlib import Path

import ml_collections

from configs import lm
from seqarch.errors import UserError
from seqarch.training.rundir import stored_config


def get_config(runs: str = "") -> ml_collections.ConfigDict:
    """Returns the config of a memory sweep over the models of runs, separated by commas."""
    paths = [Path(run.strip()) for run in runs.split(",") if run.strip()]
    if not paths:
        raise UserError("configs/runs.py needs runs; give configs/runs.py:RUN,RUN")
    config = lm.get_config()
    config.name = "memory-" + "-".join(path.name for path in paths)
    config.reference = "attention"  # to which nothing is matched, as all members give their sizes
    config.members = tuple(map(_member, paths))
    config.length = 512  # tokens of a segment of a prefill
    return config


def _member(path: Path) -> str:
    """Returns the text of a member with every field of a run's model."""
    model = dataclasses.asdict(stored_config(path).model)
    pattern = model.pop("mixer")
    name = re.sub(r"[=(,:/;]", "-", path.resolve().name)
    return "; ".join([f"{name} = {pattern}", *(f"{key}={value!r}" for key, value in model.items())])
