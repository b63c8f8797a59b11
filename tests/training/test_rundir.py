"""A run directory is data: whatever stands in its files, nothing is executed."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import seqarch.config
from seqarch.config import ModelConfig
from seqarch.errors import UserError
from seqarch.training import rundir, sharded_step, sharding
from seqarch.training.checkpoint import Checkpointer
from seqarch.training.loading import load_model
from seqarch.training.logging import read_rows
from tests.programs.test_mistakes import made
from tests.programs.test_train import corpus

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


@pytest.mark.slow
def test_a_run_directory_is_data_none_of_which_is_unpickled(made, tmp_path):
    """Every file of a run in turn is a pickle that would leave a trace; what must be read is
    refused.
    """
    trace, given = tmp_path / "trace", rundir.read_config(made / "run")
    payload = pickle.dumps(Payload(trace))
    pickle.loads(payload)
    trace.rmdir()  # so it would have been left
    mesh = sharding.make_mesh(given.mesh)
    abstract, needed = sharded_step.abstract_state(given, mesh), set()
    for number, path in enumerate(path for path in (made / "run").rglob("*") if path.is_file()):
        run = shutil.copytree(made / "run", tmp_path / str(number))
        (run / path.relative_to(made / "run")).write_bytes(payload)
        with Checkpointer(run / "checkpoints") as checkpoints:
            works = [partial(load_model, run), partial(checkpoints.restore, abstract, strict=True)]
            works += [partial(rundir.read_record, run), partial(read_rows, run)]
            needed |= {path.name for work in works if refused(work)}
        assert not trace.exists(), path
    assert {"config.json", "run.json", "metadata", "manifest.ocdbt"} <= needed


ROOT = Path(__file__).parents[2]
ATTACKS = [  # program, where it is started, the module's name as seen from there
    ("eval.py", "stranger", "evil"),
    ("scripts/generate.py", "top", "runs.stranger.evil"),
    ("scripts/diff.py", "runs", "stranger.evil"),
]


def plant(made: Path, top: Path, mixer: str) -> tuple[Path, Path]:
    """A stranger's run, whose config names code of its own, and the trace that this would leave."""
    run, trace = top / "top" / "runs" / "stranger", top / "trace"
    shutil.copytree(made / "run", run)
    config = json.loads((run / "config.json").read_text())
    config["model"]["mixer"] = mixer
    (run / "config.json").write_text(json.dumps(config))
    (run / "evil.py").write_text(f"open({str(trace)!r}, 'w')")
    return run, trace


@pytest.mark.slow
@pytest.mark.parametrize(("program", "where", "module"), ATTACKS)
def test_no_program_imports_what_a_run_names(made, tmp_path, program, where, module):
    run, trace = plant(made, tmp_path, f"{module}:Mixer")
    (cwd,) = (path for path in (run, run.parent, run.parent.parent) if path.name == where)
    given = [run, made / "run"] if "diff" in program else [f"--workdir={os.path.relpath(run, cwd)}"]
    command = [sys.executable, ROOT / program, *given]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"give --allow_modules={module}" in done.stderr and not trace.exists()


@pytest.mark.slow
def test_no_optional_package_is_imported_from_a_run(made, tmp_path):
    """treescope, which flax imports, looks for IPython; a run may hold a file of that name."""
    run = shutil.copytree(made / "run", tmp_path / "run")
    trace = tmp_path / "trace"
    for name in ("IPython", "tensorflow", "torch", "boto3", "mine"):
        (run / f"{name}.py").write_text(f"open({str(trace)!r}, 'w')\nraise ImportError('planted')")
    command = [sys.executable, ROOT / "scripts/generate.py", "--workdir=.", "--steps=1"]
    done = subprocess.run(command, cwd=run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    config = json.loads((run / "config.json").read_text())
    config["model"]["mixer"] = "mine:Mixer"
    (run / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [*command, "--allow_modules=mine"], cwd=run, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "cannot load the mixer" in done.stderr, done.stderr
    assert not trace.exists()


@pytest.mark.parametrize("place", ["", "runs", "runs/stranger"])
def test_an_allowed_module_inside_a_run_is_not_imported(made, tmp_path, monkeypatch, place):
    module = ".".join(("runs/stranger/evil".removeprefix(place).strip("/")).split("/"))
    run, trace = plant(made, tmp_path, f"{module}:Mixer")
    monkeypatch.syspath_prepend(tmp_path / "top" / place)
    with pytest.raises(UserError, match="is inside the run directory"):
        load_model(run, allow_modules=(module.split(".")[0],))
    with pytest.raises(UserError, match="is inside the run directory"):
        load_model(shutil.copytree(run, tmp_path / "copy"), allow_modules=(module,))
    assert not trace.exists()


def test_a_module_is_allowed_by_its_whole_parts(made, tmp_path):
    run, _ = plant(made, tmp_path, "mine.mixers:Mixer")
    for allowed in ("mine.mixer", "min", "mixers"):
        with pytest.raises(UserError, match="give --allow_modules=mine.mixers"):
            rundir.read_config(run, [allowed])
    for allowed in ("mine", "mine.mixers"):
        assert rundir.read_config(run, [allowed]).model.mixer == "mine.mixers:Mixer"


def test_run_json_gives_the_form_alone():
    model = ModelConfig(mixer="attention(heads=2),mamba(chunk=8)")
    recorded = "attention(heads=1,window=3,method=tiled,block=16),mamba(method=chunked,chunk=4)"
    found = seqarch.config.with_recorded_forms(model, dict(mixer=recorded)).mixer
    assert found == "attention(heads=2,method=tiled,block=16),mamba(chunk=8,method=chunked)"
    for other in ("attention(method=tiled)", "gru,mamba", "evil:Mixer,mamba(method=chunked)"):
        with pytest.raises(UserError, match="is not of the mixers of"):
            seqarch.config.with_recorded_forms(model, dict(mixer=other))


@pytest.mark.parametrize("name", ["lr", "final_lr", "weight_decay", "z_loss", "clip"])
def test_what_is_infinite_in_float32_is_refused(name):
    with pytest.raises(UserError, match=f"optim.{name} is 1e\\+300, infinite in float32"):
        seqarch.config.parse({"optim": {name: 1e300}})
    seqarch.config.parse({"optim": {name: 1e30}})


CODE = [
    "planted:Mixer",
    "os:system",
    "builtins:exec",
    "os.path:join(a=b)",
    "mamba(chunk=__import__('planted'))",
    "gru()()",
]


@pytest.mark.parametrize("mixer", CODE)
def test_a_config_names_a_mixer_and_no_other_code(made, tmp_path, mixer):
    """A module beside the config is none that Python finds, and what is found must be a
    SequenceMixer; options are literals.
    """
    config = json.loads((made / "run" / "config.json").read_text())
    config["model"]["mixer"] = mixer
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    with pytest.raises(UserError):
        load_model(tmp_path)
    assert not (tmp_path / "trace").exists()
