"""Configs: what is said is what is built, and mistakes are told in one line."""

import dataclasses
import inspect
import json
import math

import pytest

from configs import lm, runs
from seqarch.compare.members import read_members
from seqarch.config import Config, ModelConfig, OptimConfig, parse, resolve, to_dict, with_forms
from seqarch.errors import UserError
from seqarch.evals import evaluator
from seqarch.patterns import Layer, parse_pattern
from seqarch.training.sharding import make_mesh

KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY


def test_a_pattern_is_cycled_and_what_is_left_over_is_the_tail():
    stack = ModelConfig(mixer="mamba,mamba,attention(window=64,kv_heads=1)", layers=26).stack
    attention = Layer("attention", (("window", 64), ("kv_heads", 1)))
    assert (stack.period, stack.repeats, stack.tail) == (
        (Layer("mamba"), Layer("mamba"), attention),
        8,
        (Layer("mamba"),) * 2,
    )
    assert len(list(stack)) == 26


def test_two_windows_in_one_model_can_be_said():
    layers = parse_pattern("attention(window=64), attention(window=256,rope=None)")
    assert [dict(layer.options) for layer in layers] == [
        {"window": 64},
        {"window": 256, "rope": None},
    ]


def test_a_config_survives_its_file():
    model = ModelConfig(mixer="gru,mamba(method=chunked)")
    config = Config(steps=7, model=model, optim=OptimConfig(clip=math.inf))
    assert parse(json.loads(json.dumps(to_dict(config), allow_nan=False))) == config


def test_configs_lm_spells_out_every_field_with_its_default():
    given = parse(lm.get_config("mamba"))
    defaults = {}
    for name in Config().evals:
        options = inspect.signature(evaluator.find(name).evaluate).parameters.values()
        defaults[name] = {each.name: each.default for each in options if each.kind == KEYWORD_ONLY}
    assert dataclasses.replace(given, evals=Config().evals) == Config()
    assert given.evals == defaults


def test_a_resolved_config_leaves_nothing_to_the_machine_and_stays_as_it_is():
    config = Config(model=ModelConfig(mixer="mamba,gru(method=sequential)"))
    mesh = make_mesh(config.mesh)
    resolved = resolve(config, mesh)
    assert resolved.model.mixer == "mamba(method=recompute),gru(method=sequential)"
    assert dataclasses.asdict(resolved.mesh) == dict(mesh.shape)
    assert resolve(resolved, mesh) == resolved
    assert dataclasses.replace(resolved, model=config.model, mesh=config.mesh) == config


def test_forms_are_chosen_for_the_target():
    form = lambda platform, mixer: dict(
        parse_pattern(with_forms(ModelConfig(mixer=mixer), platform).mixer)[0].options
    )["method"]
    assert form("cpu", "mamba") == "recompute"
    assert (form("tpu", "mamba"), form("gpu", "mamba")) == ("pallas", "chunked")
    assert (form("tpu", "gru"), form("gpu", "gru")) == ("pallas", "recompute")
    assert form("tpu", "mamba(method=associative)") == "associative"


@pytest.mark.parametrize(
    "change, complaint",
    [
        (dict(model=dict(mixer="seqarch.mixers:Nothing")), "cannot load the mixer"),
        (dict(model=dict(dims=3)), "unknown config field 'model.dims'; did you mean 'model.dim'"),
        (dict(model=dict(dim="wide")), "config field model.dim is 'wide', a str; expected int"),
        (dict(model=dict(dim=0)), "config field dim is 0; give a number of at least 1"),
        (dict(model=dict(mlp=-1)), "0 for none"),
        (dict(model=5), "config field model is 5; it has fields: mixer, layers, dim"),
        (
            dict(trackers="wandb"),
            "config field trackers is 'wandb'; expected several names, such as ('tensorboard',)",
        ),
        (dict(trackers=(1,)), "config field trackers is 1, a int; expected str"),
        (dict(trackers=["wandbb"]), "unknown tracker in config.trackers 'wandbb'; did you mean"),
        (dict(model=dict(mixer="gru,gru,mamba", layers=2)), "names 3 layers, model.layers is 2"),
        (dict(model=dict(mixer="mamba(chunk=0)")), "mamba(chunk=0): give a number of at least 1"),
        (dict(model=dict(mixer="mamba(chunk=8.5)")), "mamba(chunk=8.5): expected int"),
        (dict(model=dict(mixer="attention(state_dtype=foo)")), "give float32 or bfloat16"),
        (
            dict(model=dict(mixer="attention(dtype=bfloat16)")),
            "unknown option of mixer attention 'dtype'",
        ),
        (dict(model=dict(vocab=0)), "config field vocab is 0; give a number of at least 1"),
        (dict(optim=dict(accumulate=0)), "config field accumulate is 0"),
        (dict(checkpoint=dict(every=-1)), "checkpoint.every is -1"),
        (dict(optim=dict(accumulate=3)), "does not divide into optim.accumulate 3"),
    ],
)
def test_mistakes_are_told(change, complaint):
    with pytest.raises(UserError) as error:
        parse(change).model.stack  # noqa: B018
    assert complaint in str(error.value) and "\n" not in str(error.value)


def test_an_integer_serves_as_a_number():
    assert dataclasses.asdict(parse(dict(optim=dict(lr=1))))["optim"]["lr"] == 1.0


def test_models_of_runs_are_members_as_they_are(tmp_path):
    models = {
        "a": ModelConfig("mamba,attention(window=4)", layers=4, dim=16, mlp=0, tied=True),
        "b": ModelConfig("attention(heads=2,rope_scaling=linear:2)", vocab=99, boundary=3),
    }
    for name, model in models.items():
        (tmp_path / name).mkdir()
        config = json.dumps(to_dict(Config(model=model)))
        (tmp_path / name / "config.json").write_text(config)
    given = runs.get_config(",".join(str(tmp_path / name) for name in models))
    name, configs = read_members(given.to_dict())
    assert name == "memory-a-b" and {each: configs[each].model for each in configs} == models
    with pytest.raises(UserError, match="give configs/runs.py:RUN,RUN"):
        runs.get_config("")
