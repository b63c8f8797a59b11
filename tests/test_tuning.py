"""Tuning: what was the fastest here becomes method="auto" here and nowhere else, and a run that has
begun keeps its forms.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from benchmarks import forms_file
from benchmarks.measure import Limits
from benchmarks.tune import best, candidates, tune
from seqarch import records, tuning
from seqarch.config import Config, MeshConfig, ModelConfig, resolve, to_dict, with_forms
from seqarch.devices import DEVICES
from seqarch.errors import UserError
from seqarch.mixers import MIXERS, resolve_mixer
from seqarch.patterns import Layer
from seqarch.tasks.text import writer
from seqarch.training import loop, sharding

ROOT = Path(__file__).parents[1]
TINY = Config(batch=2, length=20, model=ModelConfig("mamba(state_dim=2)", layers=1, dim=8, mlp=0))
OTHER = {"mamba": {"method": "chunked", "chunk": 16}}  # on a CPU "recompute" is the default
GRU_CHOICE = {"method": "sequential"}
ABSENT = SimpleNamespace(device_kind="TPU v5 lite", platform="tpu")


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SEQARCH_FORMS", str(tmp_path / "cache" / "forms.json"))
    return tuning.path()


def resolved(mixer: str) -> str:
    config = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, mixer=mixer))
    return resolve(config, sharding.make_mesh(MeshConfig())).model.mixer


def test_what_was_recorded_is_what_auto_means_and_a_config_overrides_it():
    assert resolved("mamba,gru") == "mamba(method=recompute),gru(method=stepwise)"
    tuning.record(jax.devices()[0], OTHER)
    assert resolved("mamba,gru") == "mamba(method=chunked,chunk=16),gru(method=stepwise)"
    assert resolved("mamba(method=auto,chunk=4)") == "mamba(chunk=4,method=chunked)"
    assert resolved("mamba(method=associative)") == "mamba(method=associative)"
    tuning.record(jax.devices()[0], {"gru": {"method": "sequential"}})
    assert resolved("mamba,gru") == "mamba(method=chunked,chunk=16),gru(method=sequential)"


def test_what_compilers_estimate_is_the_default_on_such_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "ESTIMATES", tmp_path / "tuned.json")
    tuning.ESTIMATES.write_text("{}")
    tuning.record_estimates(ABSENT, {"mamba": {"method": "associative"}, "gru": GRU_CHOICE})
    tuning.record_estimates(ABSENT, OTHER)
    assert tuning.tuned(ABSENT) == OTHER | {"gru": GRU_CHOICE}
    tuning.record(ABSENT, {"mamba": {"method": "sequential"}})  # what was timed goes before
    assert tuning.tuned(ABSENT) == {"mamba": {"method": "sequential"}, "gru": GRU_CHOICE}
    assert tuning.tuned(jax.devices()[0]) == {}


RECORDS = sorted((ROOT / "docs/forms").glob("*/records.jsonl"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.parent.name)
def test_no_default_takes_longer_than_the_estimates_allow(path):
    """Every mixer of the record has a default that takes at most 1.2 times as long as the best."""
    about, found = records.read(path)
    kind = DEVICES[about["target"]].kind
    device = SimpleNamespace(device_kind=kind, platform="tpu")
    assert tuning.tuned(device) == forms_file.choices(found, "tpu")
    for results in found:
        if seconds := forms_file.seconds_by_options(results):
            choice = tuning.tuned(device)[results.source.member]
            known = {tuple(dict(key).items()): each for key, each in seconds.items() if each}
            assert known[tuple(choice.items())] <= 1.2 * min(known.values())


def test_what_was_tuned_on_one_device_means_nothing_on_another():
    tuning.record(jax.devices()[0], {"mamba": {"method": "sequential"}})
    assert tuning.tuned(ABSENT) == {}
    assert (
        with_forms(TINY.model, "tpu", tuning.tuned(ABSENT)).mixer
        == "mamba(state_dim=2,method=pallas)"
    )


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_off_the_cpu_linear_recurrences_never_go_token_by_token(platform):
    parallel = {"associative", "chunked", "parallel", "blockwise", "gathered"}
    forms = [resolve_mixer(name).forms for name in MIXERS]
    linear = [each for each in forms if each and parallel & set(each)]
    assert linear and all(each.auto(platform) in {*parallel, *each.kernels} for each in linear)


@pytest.mark.slow
def test_every_form_is_timed_once_in_every_size_that_matters():
    found = [dict(options) for options, _ in candidates(Layer("mamba"), TINY)]
    forms = resolve_mixer("mamba").forms
    assert {options["method"] for options in found} == set(forms)
    assert [options for options in found if options["method"] == "associative"] == [
        {"method": "associative", "chunk": 64}
    ]
    assert {"method": "recompute", "chunk": 16} in found  # 64 and more are one program at 20 tokens
    assert {"method": "recompute", "chunk": 128} not in found


@pytest.mark.slow
def test_the_choice_was_measured_and_the_default_stays_where_it_is_about_as_fast():
    config = dataclasses.replace(
        TINY,
        model=dataclasses.replace(TINY.model, mixer="gru,gru,linear_attention(method=chunked)"),
    )
    choices, figures = tune(config, Limits(rounds=(2, 2), seconds=0.0), say=lambda line: None)
    assert set(choices) == {"gru"} and len(figures) == len(resolve_mixer("gru").forms)
    assert all(figure.seconds > 0 for figure in figures)
    usual, other = (("method", "recompute"), ("chunk", 64)), (("method", "chunked"), ("chunk", 16))
    assert best({other: 0.95, usual: 1.0}, "recompute") == usual
    assert best({other: 0.5, usual: 1.0}, "recompute") == other
    assert best({other: 0.5, usual: None}, "recompute") == other
    assert best({other: None, usual: None}, "recompute") == usual
    assert best({other: 0.5, usual: 1.0}, "pallas") == other


@pytest.mark.slow
def test_the_program_keeps_what_it_chose(file, run_here):
    small = [
        "--config.batch=1",
        "--config.length=16",
        "--config.model.dim=8",
        "--config.model.layers=1",
    ]

    def ran(*more: str) -> str:
        done = run_here("scripts/tune.py", "--config=configs/lm.py:gru", *small, *more)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "chosen: gru(method=" in ran("--dry_run") and not file.exists()
    said = ran()
    assert f"kept in {file}" in said and f"chosen: {resolved('gru')}" in said


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("{", "cannot read the tuned forms in .*delete it"),
        ("[]", "damaged"),
        (
            '{"cpu": {"manba": {"method": "chunked"}}}',
            "unknown mixer 'manba'; did you mean 'mamba'",
        ),
        (
            '{"cpu": {"mamba": {"method": "chunkd"}}}',
            "unknown form of mamba 'chunkd'; did you mean 'chunked'",
        ),
        ('{"cpu": {"mamba": {"chunk": 16}}}', "unknown form of mamba 'None'; known: "),
        ('{"cpu": {"mamba": {"method": "chunked", "chnk": 16}}}', "did you mean 'chunk'"),
    ],
)
def test_a_damaged_file_is_told_in_a_line(file, text, complaint):
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(UserError, match=complaint) as error:
        resolved("mamba")
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_a_mixer_that_is_not_importable_here_stops_nobody_else():
    tuning.record(
        jax.devices()[0],
        {"elsewhere:Mixer": {"method": "chunked"}, "gru": {"method": "sequential"}},
    )
    assert resolved("gru") == "gru(method=sequential)"


def test_tuning_again_mends_a_damaged_file(file):
    file.parent.mkdir()
    file.write_text("{")
    tuning.record(jax.devices()[0], {"gru": {"method": "sequential"}})
    assert resolved("gru") == "gru(method=sequential)"


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_the_forms_that_it_began_with(tmp_path):
    source = Path(argparse.__file__).read_bytes()
    documents = [
        ("train", "a", source[:20000]),
        ("validation", "b", source[20000:21000]),
        ("test", "c", source[21000:22000]),
    ]
    writer.write(tmp_path / "text", documents, {"name": "argparse"}, replace=False)
    config = dataclasses.replace(
        TINY, steps=1, data=dataclasses.replace(TINY.data, path=str(tmp_path / "text"))
    )
    quiet = dict(progress=lambda line: None)
    loop.train(config, tmp_path / "run", **quiet)
    tuning.record(jax.devices()[0], OTHER)
    loop.train(dataclasses.replace(config, steps=2), tmp_path / "run", **quiet)
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [run["mixer"], *(start["mixer"] for start in run["continued"])] == [
        "mamba(state_dim=2,method=recompute)"
    ] * 2
    assert (
        json.loads((tmp_path / "run" / "config.json").read_text())["model"]
        == to_dict(config)["model"]
    )
    loop.train(config, tmp_path / "anew", **quiet)
    assert (
        json.loads((tmp_path / "anew" / "run.json").read_text())["mixer"]
        == "mamba(state_dim=2,method=chunked,chunk=16)"
    )
