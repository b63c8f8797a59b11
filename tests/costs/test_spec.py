"""Specs of programs: what decides them, the cache, and workers that crash or hang and lose one."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqarch.config import Config, ModelConfig
from seqarch.costs import spec as specs
from seqarch.costs import worker
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.memory import measure
from seqarch.costs.spec import Failed, ProgramSpec, key_of
from seqarch.errors import UserError

CONFIG = Config(length=16, model=ModelConfig("gru", layers=1, dim=8, mlp=8))


def spec(phase="decode", batch=1, length=32, target="local", **model) -> ProgramSpec:
    return ProgramSpec(
        dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, **model)),
        phase,
        batch,
        length,
        target,
    )


@pytest.mark.parametrize(
    "mixer, same", [("gru", True), ("attention", False), ("attention(window=24)", True)]
)
def test_serving_programs_of_all_contexts_are_one_where_the_state_is(mixer, same):
    for phase in ("prefill", "decode"):
        assert (
            key_of(spec(phase, length=32, mixer=mixer))
            == key_of(spec(phase, length=64, mixer=mixer))
        ) == same


def test_key_tells_programs_apart():
    given = [
        spec(),
        spec("prefill"),
        spec("train"),
        spec("train", length=33),
        spec(batch=2),
        spec(dim=16),
        spec(target="tpu-v4"),
    ]
    assert len({key_of(each) for each in given}) == len(given)


def test_a_change_of_the_estimate_leaves_measurements_valid():
    timed = key_of(spec(), sources=specs.SOURCES + specs.TIME_SOURCES)
    assert timed != key_of(spec()) == key_of(spec(), sources=specs.SOURCES)


def test_a_decoding_step_is_the_same_in_every_form():
    of = lambda phase, mixer: key_of(spec(phase, mixer=mixer))
    forms = ["attention(method=materialised)", "attention(method=blockwise)", "attention"]
    assert (
        len({of("decode", mixer) for mixer in forms}) == 1
        and len({of("train", mixer) for mixer in forms}) == 3
    )
    assert of("decode", "attention(heads=2)") != of("decode", "attention")


def test_tuned_forms_and_the_compilers_environment_are_part_of_the_key(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQARCH_FORMS", str(tmp_path / "forms.json"))
    keys = [key_of(spec(target="gpu-h100"))]
    (tmp_path / "forms.json").write_text("{}")
    keys += [key_of(spec(target="gpu-h100"))]
    monkeypatch.setenv("XLA_FLAGS", "--xla_other=true")
    keys += [key_of(spec(target="gpu-h100"))]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    assert len(set(keys)) == 3 and key_of(spec(target="gpu-h100")) == keys[-1]
    monkeypatch.setattr(specs, "version", lambda package: "another")
    specs._versions.cache_clear()
    assert key_of(spec(target="gpu-h100")) not in keys
    specs._versions.cache_clear()


def answers(pipe, kind, platforms, directory):
    """A worker whose spec of batch 1 is measured, of 2 crashes, of 3 hangs, of 4 is the user's
    mistake.
    """
    for call in worker._received(pipe):
        given = specs.ProgramSpec(*call.args)
        if given.batch == 2:
            Path(directory, worker.LOG).write_text("chatter\nCheck failed: tiles\n")
            os.kill(os.getpid(), signal.SIGABRT)
        if given.batch == 3:
            time.sleep(60)
        pipe.send(UserError("a mistake") if given.batch == 4 else MEASURED)


MEASURED = measure(*spec())


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_serve", answers)
    with MeasurementCache(tmp_path, workers=1, timeout=120) as cache:
        yield cache


@pytest.mark.slow
def test_a_crash_loses_one_cell_and_what_was_measured_is_kept(cache, tmp_path):
    assert cache.measure(spec(batch=2)) == Failed(
        "the compiler ended its process (SIGABRT): Check failed: tiles"
    )
    assert cache.measure(spec()) == MEASURED
    assert len(list(tmp_path.glob("*.json"))) == 1
    with MeasurementCache(tmp_path, workers=1) as again:
        again._ask = None  # it can only be read
        assert again.measure(spec()) == MEASURED


def test_a_hang_loses_one_cell(cache):
    cache._timeout = 0.5
    assert cache.measure(spec(batch=3)) == Failed("took longer than 0 s")


@pytest.mark.slow
def test_the_user_s_mistake_is_told(cache):
    with pytest.raises(UserError, match="a mistake"):
        cache.measure(spec(batch=4))


@pytest.mark.slow
def test_a_real_worker_measures_what_this_process_does(tmp_path):
    with MeasurementCache(tmp_path, workers=1, platforms="cpu") as cache:
        assert cache.measure(spec()) == MEASURED


def test_an_error_of_the_compiler_is_a_line():
    def fails():
        raise RuntimeError("INTERNAL: no tile\nwith a page of details")

    found = worker._outcome(fails, worker.ABSENT)
    assert found == Failed("the compiler fails: INTERNAL: no tile")


HARMLESS = {"errors.py", "files.py", "provenance.py", "types.py"}  # they change no program


@pytest.mark.slow
@pytest.mark.parametrize(
    "module, sources",
    [("programs", specs.SOURCES), ("time", specs.SOURCES + specs.TIME_SOURCES)],
)
def test_measurements_depend_on_every_module_that_makes_the_programs(module, sources):
    """A module that is imported and that the sources lack would leave stale measurements."""
    listing = (
        f"import sys, seqarch.costs.{module}\n"
        "ours = (module for name, module in sys.modules.items() if name.startswith('seqarch.'))\n"
        "print(*(module.__file__ for module in ours), sep='\\n')"
    )
    command = [sys.executable, "-c", listing]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    root = Path(specs.__file__).parents[1]
    files = {Path(line).relative_to(root) for line in found.stdout.splitlines() if line != "None"}
    sources = {path.relative_to(root) for each in sources for path in root.glob(each)}
    left = {file for file in files - sources if file.parts[0] != "runtime"}
    assert files and {str(file) for file in left if file.name != "__init__.py"} <= HARMLESS
