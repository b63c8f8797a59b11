"""Writes the weights of a model from outside as a run, which programs read as any other."""

import hashlib
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from seqarch import provenance
from seqarch.config import Config, DataConfig, EvalConfig, to_dict
from seqarch.costs.hf.families import read_values
from seqarch.errors import UserError
from seqarch.files import local_path, write_text
from seqarch.pretrained.families import Imported, read_import
from seqarch.pretrained.filling import filled
from seqarch.pretrained.vocabulary import run_tokenizer
from seqarch.pretrained.weights import Weights
from seqarch.runtime.progress import Say
from seqarch.tasks.text import tokenizer
from seqarch.training import rundir, storage
from seqarch.training.checkpoint import Checkpointer

STEP = 0  # of the checkpoint, since nothing was trained here


def import_run(
    path: str | os.PathLike,
    workdir: str | os.PathLike,
    *,
    data: str | None = None,
    length: int = 1024,
    dtype: str = "float32",
    say: Say = print,
) -> Config:
    """Writes a run with the weights of a model, and returns its config.

    Args:
      path: a directory with config.json, model.safetensors (or its parts with their index) and
        tokenizer.json, or the path of that config.json.
      workdir: the run's directory, which has no run yet.
      data: the prepared text that the run is scored on, which may be made later; None: that in
        WORKDIR/text.
      length: tokens of a window in which text is scored, or as many as the model reads at most.
      dtype: of the computation.
      say: is called with a line about the model.

    Raises:
      UserError: where the files are incomplete or do not fit together, the model has no
        counterpart, or the directory holds a run.
    """
    given = local_path(path)
    source = given / "config.json" if given.is_dir() else given
    imported = read_import(read_values(source), str(source), dtype=dtype)
    spec, tokens = "", source.parent / tokenizer.FILE
    if tokens.exists():
        model = imported.config
        spec = run_tokenizer(tokens, model.vocab, model.boundary, imported.end)
    config = _run_config(imported, data or str(Path(workdir) / "text"), length)
    _check_empty(workdir)
    rundir.check(workdir, config)
    with Weights(source.parent) as weights:
        arrays = filled(imported.config, imported.outside, weights, str(source.parent))
    say(f"{imported.name}: {sum(each.size for each in arrays.values()):,} parameters")
    with storage.lock(workdir, say), storage.full_disk_told(workdir):
        _save(workdir, config, arrays)
        if spec:
            write_text(Path(workdir) / tokenizer.FILE, spec)
        rundir.write(workdir, to_dict(config), _record(source, imported))
    return config


def _run_config(imported: Imported, data: str, length: int) -> Config:
    """Returns the config of the run, whose windows are no longer than the model reads."""
    return Config(
        steps=1,
        batch=1,
        length=min(length, imported.positions or length),
        model=imported.config,
        data=DataConfig(data),
        eval=EvalConfig(batch=1),
    )


def _check_empty(workdir: str | os.PathLike) -> None:
    """Raises UserError where a directory holds a run or checkpoints."""
    for name in ("config.json", "checkpoints"):
        if (Path(workdir) / name).exists():
            raise UserError(f"{workdir} holds a run already; give another --workdir, or remove it")


def _save(workdir: str | os.PathLike, config: Config, arrays: dict[str, Any]) -> None:
    """Writes the checkpoint; the arrays are handed over one by one, so that they are held once."""
    model = {name: jnp.asarray(arrays.pop(name)) for name in list(arrays)}
    directory, deciding = Path(workdir) / "checkpoints", rundir.deciding_fields(config)
    with Checkpointer(directory, 1, config=deciding) as checkpoints:
        checkpoints.save_model(STEP, model)


def _record(source: Path, imported: Imported) -> dict[str, Any]:
    """Returns the record of run.json, which says where the weights are from."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    origin = dict(model_type=imported.name, path=str(source.parent), config_sha256=digest)
    return provenance.provenance() | dict(step=STEP, imported=origin)
