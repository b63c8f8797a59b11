"""A run directory is data: whatever stands in its files, nothing is executed."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from seqarch.errors import UserError
from seqarch.training import rundir, sharding
from seqarch.training.checkpoint import Checkpointer, load_model
from seqarch.training.logging import read_rows
from tests.test_mistakes import made
from tests.test_train_main import corpus

__all__ = ["corpus", "made"]


class Payload:
    """Unpickled, it makes a directory."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


def refused(work: Callable[[], object]) -> bool:
    try:
        work()
    except UserError:
        return True
    return False


def test_a_run_directory_is_data_none_of_which_is_unpickled(made, tmp_path):
    """Every file of a run in turn is a pickle that would leave a trace; what must be read is refused."""
    trace, given = tmp_path / "trace", rundir.read_config(made / "run")
    payload = pickle.dumps(Payload(trace))
    pickle.loads(payload)
    trace.rmdir()  # so it would have been left
    mesh = sharding.make_mesh(given.mesh)
    abstract, needed = sharding.abstract_state(given, mesh), set()
    for number, path in enumerate(path for path in (made / "run").rglob("*") if path.is_file()):
        run = shutil.copytree(made / "run", tmp_path / str(number))
        (run / path.relative_to(made / "run")).write_bytes(payload)
        with Checkpointer(run / "checkpoints") as checkpoints:
            works = [partial(load_model, run), partial(checkpoints.restore, abstract, strict=True)]
            works += [partial(rundir.read_record, run), partial(read_rows, run)]
            needed |= {path.name for work in works if refused(work)}
        assert not trace.exists(), path
    assert {"config.json", "run.json", "metadata", "manifest.ocdbt"} <= needed


CODE = ["planted:Mixer", "os:system", "builtins:exec", "os.path:join(a=b)", "mamba(chunk=__import__('planted'))", "gru()()"]


@pytest.mark.parametrize("mixer", CODE)
def test_a_config_names_a_mixer_and_no_other_code(made, tmp_path, mixer):
    """A module beside the config is none that Python finds, and what is found must be a SequenceMixer; options are literals."""
    config = json.loads((made / "run" / "config.json").read_text())
    config["model"]["mixer"] = mixer
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    with pytest.raises(UserError):
        load_model(tmp_path)
    assert not (tmp_path / "trace").exists()
