"""Loads the latest model of a run, of which training may write the next one meanwhile."""

import os
from collections.abc import Iterable
from pathlib import Path

import jax
from jax.sharding import Mesh

from seqarch.config import Config, MeshConfig, resolve_model
from seqarch.errors import UserError
from seqarch.model import LanguageModel, abstract_model
from seqarch.training import restore
from seqarch.training.checkpoint import named
from seqarch.training.digest import digests
from seqarch.training.restore import Damaged
from seqarch.training.rundir import deciding_fields, read_config
from seqarch.training.sharding import make_mesh, placed, shardings
from seqarch.training.state import TrainState
from seqarch.types import Array

LOOKS = 20  # attempts of load_model to read a checkpoint that training replaces meanwhile


def load_model(
    run_dir: str | os.PathLike, allow_modules: Iterable[str] = (), *, mesh: Mesh | None = None
) -> tuple[Config, LanguageModel, int]:
    """Returns a run's config as the user gave it, its latest model, and the step of that model.

    Where training replaces the checkpoint while it is read, the next one is read.

    Args:
      run_dir: the run's directory.
      allow_modules: modules and packages of mixers that may be imported because the run's config
        names them.
      mesh: the devices, each of which reads its part of the parameters; default: this process's
        first device.

    Raises:
      UserError: where the directory is no run, has no checkpoint or a damaged one, or where its
        config names a module that is not allowed.
    """
    config = read_config(run_dir, allow_modules)
    resolved = resolve_model(config.model, jax.local_devices()[0])
    abstract = abstract_model(resolved)
    mesh = mesh or make_mesh(MeshConfig(), jax.local_devices()[:1])
    abstract = placed(abstract, shardings(abstract, mesh))
    directory = Path(run_dir) / "checkpoints"
    step, leaves = _read_newest(directory, config, named(TrainState(None, abstract, None)))
    return config, jax.tree.unflatten(jax.tree.structure(abstract), list(leaves.values())), step


def _read_newest(
    directory: Path, config: Config, model: dict[str, Array]
) -> tuple[int, dict[str, Array]]:
    """Returns the step and the arrays `model` of the newest checkpoint."""
    for left in reversed(range(LOOKS)):
        step = restore.newest(directory)
        path = directory / str(step)
        try:
            record = restore.read_record(path)
            restore.check_origin(path, record, deciding_fields(config))
            restore.check(path, record, model, prefix="model.")
            leaves = restore.read_arrays(path, model=model)
            restore.compare(path, record, digests(leaves))
        except Damaged as error:
            if not left or restore.newest(directory) == step:
                raise UserError(
                    f"{error}; the command that trained it goes on from the one before"
                ) from error
        else:
            return step, leaves
