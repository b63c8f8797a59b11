"""Estimated models: the batch that fits, their file and page, and one that is compiled."""

import dataclasses
import importlib.util

import pytest

from benchmarks import decoding, models, models_file
from seqarch.config import Config, ModelConfig, OptimConfig
from seqarch.costs.results import program_source
from seqarch.costs.spec import Failed
from seqarch.costs.time import OVERSIZED
from seqarch.errors import UserError
from seqarch.records import Record, Results

MODEL = ModelConfig("attention(heads=2)", layers=5, dim=128, mlp=128, dtype="bfloat16")
CONFIG = Config(batch=4, length=128, model=MODEL, optim=OptimConfig(accumulate=2))


class Answers:
    """Stands in the place of a worker: batches of more than two rows do not fit."""

    def __init__(self, platforms):
        pass

    def ask(self, target, call, timeout):
        config, target, forms = call.args
        if config.batch > 2:
            return Failed(OVERSIZED)
        if forms == "plain":
            return Failed("a custom call")
        at = dict(target=target, forms=forms, context=config.length, batch=config.batch)
        values = dict(params=7, total_bytes=2**30, estimated_s=0.1)
        values |= dict(estimated_tokens_per_s=10.0, estimated_mfu=0.4)
        shares = {"products": 0.5, "scan": 0.2, "rest": 0.15, "loss": 0.1}
        found = [Record("models", name, value, at) for name, value in values.items()]
        return found + [Record("models", "share", x, {**at, "part": n}) for n, x in shares.items()]

    def end(self):
        pass


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_estimates_are_of_the_largest_batch_and_have_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "Worker", Answers)
    path, said = tmp_path / "models/records.jsonl", []
    for _ in range(2):  # later estimates take the place of earlier ones
        for found in models.estimate({"one": CONFIG}, "tpu-v5e", models.FORMS, said.append):
            models_file.update(path, "tpu-v5e", found)
    assert len(said) == 4
    about, results = models_file.records.read(path)
    assert [each.source.config["batch"] for each in results] == [4, 4]
    (table,) = models_file.models_page(about, results).tables
    plain, kernels = (row.cells[:-1] for row in table.rows)
    assert plain == ("one", "plain", None, 2, 1, None, None, None, "a custom call")
    most = "products 50.0%, scan 20.0%, rest 15.0%"
    assert kernels == ("one", "kernels", 7, 2, 1, 10.0, 0.4, 2**30, most)


def test_decoding_has_a_table_beside_training(tmp_path):
    path = tmp_path / "models/records.jsonl"
    for name, seconds in (("two", 3e-3), ("one", 1e-3), ("one", 2e-3)):
        found = [
            Record("costs", metric, value, dict(target="tpu-v5e", phase="decode", context=context))
            for context in (64, 1024)
            for metric, value in (("state_bytes", context), ("estimated_s", seconds))
        ]
        found = Results(program_source(name, CONFIG), tuple(found))
        models_file.update(path, "tpu-v5e", found)
    about, results = models_file.records.read(path)
    (table,) = models_file.models_page(about, results).tables
    cells = [row.cells[:-1] for row in table.rows]
    assert cells == [("one", 64, 2, None, 1024, 2, None), ("two", 64, 3, None, 1024, 3, None)]


def test_a_target_without_estimates_is_refused():
    with pytest.raises(UserError, match="--target=gpu-h100 is no single TPU"):
        list(models.estimate({"one": CONFIG}, "gpu-h100", models.FORMS, print))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_a_model_is_estimated_with_what_its_time_is_spent_on():
    config = dataclasses.replace(CONFIG, batch=2)
    (found,) = models.estimate({"one": config}, "tpu-v5e", ["kernels"], print)
    shares = {each.at["part"]: each.value for each in found.all("models", "share")}
    assert {"attention_forward", "attention_backward", "products"} <= set(shares)
    assert 0.5 < sum(shares.values()) <= 1.001
    (time,) = found.all("models", "estimated_s")
    assert time.value > 0 and time.at["batch"] == 2


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_decoding_is_estimated_above_its_roofline():
    (found,) = decoding.estimate({"one": CONFIG}, "tpu-v5e", (256, 4096), print)
    for short, long in (found.all("costs", "estimated_s"), found.all("costs", "bound_s")):
        assert 0 < short.value < long.value
    bounds, times = (found.all("costs", metric) for metric in ("bound_s", "estimated_s"))
    assert all(bound.value < time.value for bound, time in zip(bounds, times, strict=True))
