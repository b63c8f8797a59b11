"""The planner: what it tries and in which order, on measurements that are made up."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from seqarch import records
from seqarch.config import Config, MeshConfig, ModelConfig, OptimConfig
from seqarch.costs.capacity import (
    serving_capacity,
    target_facts,
    training_capacity,
)
from seqarch.costs.devices import place
from seqarch.costs.memory import Measurement
from seqarch.costs.results import METRICS, program_source
from seqarch.costs.spec import Failed
from seqarch.costs.speed import with_costs
from seqarch.errors import NoResult
from seqarch.model import count_parameters
from seqarch.records import Results
from seqarch.report.formats import FORMATS

ROOT = Path(__file__).parents[2]
CONFIG = Config(
    batch=16,
    length=64,
    model=ModelConfig("gru", layers=1, dim=8, mlp=8),
    mesh=MeshConfig(data=4, fsdp=1),
)
FOUR = place("tpu-v5e:2x2")
REMAT, SPLIT = "model.remat=True", "mesh.data=1, mesh.fsdp=-1"
SERVED = dict(target=FOUR.name, context=64)


class Made:
    """A cache in which a program needs bytes by what the config does; it remembers what it was
    asked. Programs fail to compile where `fails` says so.
    """

    def __init__(self, memory, prefill=50, fails=lambda spec: False):
        self.memory, self.prefill, self.fails, self.asked = memory, prefill, fails, []

    def measure(self, spec):
        self.asked.append(spec)
        if self.fails(spec):
            return Failed("it crashed")
        model = 400 // (4 if spec.config.mesh.fsdp == -1 else 1)
        rows = (
            spec.batch // spec.config.optim.accumulate // 4 if spec.phase == "train" else spec.batch
        )
        each = {
            "train": 100 if spec.config.model.remat else 300,
            "decode": 10,
            "prefill": self.prefill,
        }[spec.phase]
        return measurement(parameters=model, total=model + rows * each, memory=self.memory)


def measurement(parameters=0, state=0, total=0, memory=0, flops=0.0):
    return Measurement(parameters, 0, 0, state, 0, 0, 0, 0, total, "made up", memory, flops)


def found_by(capacity, cache, config=CONFIG, placement=FOUR, price=None, context=64):
    """The results of a capacity, whose records differ in what they were measured at."""
    found = with_costs(capacity(cache, config, placement, context), placement, price)
    results = Results(program_source("gru", config), ()).with_found(found)
    assert len({record.key for record in results.records}) == len(results.records)
    return results


def attempts(results):
    """The bytes of the train steps, by change."""
    return {each.at["change"]: each for each in results.all("costs", "total_bytes")}


def largest_batch(results):
    """The chosen change, the largest batch that fits, and the least that does not."""
    (largest,) = results.all("costs", "largest_batch")
    beyond = results.value("costs", "batch_beyond", **largest.at)
    assert (beyond is None) == (largest.status == "over")
    return largest.at["change"], largest.value, beyond


def serving_bytes(results, phase, rows):
    at = SERVED | dict(phase=phase, batch=rows)
    return results.find("costs", "total_bytes", **at)


@pytest.mark.parametrize(
    "memory, changes, rows",
    [
        (1600, [""], (16, 20)),
        (1000, ["", REMAT], (24, 28)),
        (500, ["", REMAT, f"{REMAT}, {SPLIT}"], (16, 20)),
    ],
)
def test_the_cheapest_way_to_train_that_fits_is_taken(memory, changes, rows):
    found = found_by(training_capacity, Made(memory))
    tried = attempts(found)
    assert list(tried)[: len(changes)] == changes
    assert [each.status for each in tried.values()][: len(changes)] == [
        *["oom"] * (len(changes) - 1),
        "ok",
    ]
    assert largest_batch(found) == (changes[-1], *rows)


def test_what_was_tried_first_and_is_not_needed_is_left_out():
    cheap = dataclasses.replace(
        CONFIG, batch=4
    )  # a row a device: 400 of parameters, which alone are too many for it
    found = found_by(training_capacity, Made(405), cheap)
    tried = attempts(found)
    assert list(tried) == ["", REMAT, f"{REMAT}, {SPLIT}", SPLIT]
    assert largest_batch(found)[0] == SPLIT
    assert (tried[SPLIT].value, tried[SPLIT].status) == (400, "ok")
    assert found.value("costs", "parameters_bytes", **tried[SPLIT].at) == 100
    assert found.value("costs", "working_bytes", **tried[SPLIT].at) == 300
    assert found.value("costs", "device_bytes", **tried[SPLIT].at) == 405


@pytest.mark.parametrize(
    "mesh, tried",
    [((4, 1), True), ((2, -1), True), ((1, -1), False), ((1, 4), False), ((-1, 4), False)],
)
def test_parameters_are_split_over_all_devices_where_they_are_not_yet(mesh, tried):
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(*mesh))
    found = found_by(training_capacity, Made(150), config)
    assert any(SPLIT in change for change in attempts(found)) == tried


def test_accumulation_comes_last_and_ends_at_one_row_a_device():
    found = found_by(training_capacity, Made(350))
    change, _, _ = largest_batch(found)
    assert change == f"{REMAT}, {SPLIT}, optim.accumulate=2"
    assert attempts(found)[change].status == "ok"
    found = found_by(training_capacity, Made(150))
    change, rows, _ = largest_batch(found)
    assert change.endswith("optim.accumulate=4") and rows == 0
    assert attempts(found)[change].status == "oom"
    assert not found.all("costs", "bound_tokens_per_s"), "what does not fit has no speed"


def test_a_batch_that_the_devices_do_not_divide_is_rounded_up():
    found = found_by(training_capacity, Made(1600), dataclasses.replace(CONFIG, batch=13))
    (attempt,) = attempts(found).values()
    assert (attempt.at["batch"], attempt.status) == (16, "ok")
    assert largest_batch(found) == ("", 16, 20)


def test_micro_batches_have_whole_rows():
    cache = Made(1)
    config = dataclasses.replace(CONFIG, optim=OptimConfig(accumulate=2))
    found_by(training_capacity, cache, config)
    assert all(spec.batch % spec.config.optim.accumulate == 0 for spec in cache.asked)


def test_a_train_step_that_fails_to_compile_does_not_fit():
    cache = Made(1000, fails=lambda spec: not spec.config.model.remat)
    found = found_by(training_capacity, cache)
    failed = attempts(found)[""]
    assert (failed.status, failed.value, failed.note) == ("failed", None, "it crashed")
    assert largest_batch(found) == (REMAT, 24, 28)


@pytest.mark.parametrize("capacity, programs", [(training_capacity, 5), (serving_capacity, 2)])
def test_where_nothing_compiles_the_records_say_so_before_the_error(capacity, programs):
    said = []
    with pytest.raises(NoResult, match="it crashed"):
        said.extend(capacity(Made(1000, fails=lambda spec: True), CONFIG, FOUR, 64))
    assert [record.status for record in said] == ["failed"] * programs


def test_as_many_sequences_are_served_as_fit():
    cache = Made(1000)
    found = found_by(serving_capacity, cache)
    assert found.value("costs", "sequences", **SERVED) == 60
    assert serving_bytes(found, "decode", 60).value == 1000
    assert [(spec.batch, spec.length) for spec in cache.asked if spec.phase == "prefill"] == [
        (1, 64),
        (1, 32),
        (60, 32),
    ]


@pytest.mark.parametrize("fewer", [1, 2, 3])
def test_fewer_sequences_than_chips_may_be_served_where_these_have_no_room_for_one_each(fewer):
    found = found_by(serving_capacity, Made(400 + 10 * fewer + 5, prefill=10))
    assert found.value("costs", "sequences", **SERVED) == fewer
    assert serving_bytes(found, "decode", fewer).value == 400 + 10 * fewer


@pytest.mark.parametrize("memory, decode", [(449, "ok"), (405, "oom")])
def test_nothing_is_served_where_decoding_or_the_prompt_of_one_does_not_fit(memory, decode):
    cache = Made(memory)
    found = found_by(serving_capacity, cache)
    assert serving_bytes(found, "decode", 1).status == decode
    assert serving_bytes(found, "prefill", 1).status == "oom"
    assert found.value("costs", "sequences", **SERVED) == 0
    assert len(cache.asked) == 2, "nothing further is compiled"


@pytest.mark.parametrize(
    "cache, rows",
    [
        (Made(10**9), 4 * 2**20),  # the search ends there
        (Made(1000, fails=lambda spec: spec.phase == "decode" and spec.batch > 1), 1),
    ],
)
def test_more_sequences_may_fit_where_the_search_could_not_tell(cache, rows):
    found = found_by(serving_capacity, cache)
    most = found.find("costs", "sequences", **SERVED)
    assert (most.value, most.status) == (rows, "over")


def test_the_target_is_told_by_facts():
    found = Results(program_source("gru", CONFIG), ()).with_found(target_facts(CONFIG, FOUR, 64))
    assert found.value("costs", "params") == count_parameters(CONFIG.model)
    facts = dict(context=64, target=FOUR.name, devices=4, data_sheet=FOUR.target.source)
    assert found.source.facts["costs"] == facts | dict(memory_source="libtpu")
    h100 = dict(found.with_found(target_facts(CONFIG, place("gpu-h100"), 64)).source.facts["costs"])
    assert h100["memory_source"] == h100["data_sheet"] and "H100" in h100["data_sheet"]


def test_all_that_is_recorded_is_declared():
    declared = {metric.name for metric in METRICS}
    assert len(declared) == len(METRICS) and {metric.unit for metric in METRICS} <= set(FORMATS)
    for capacity in (training_capacity, serving_capacity):
        found = found_by(capacity, Made(1000), price=3.0)
        assert {record.metric for record in found.records} <= declared
        assert found.evaluators == ("costs",)


@pytest.mark.slow
def test_program_says_how_it_trains_and_serves(tmp_path, run_here):
    small = [
        "--config.model.dim=8",
        "--config.model.mlp=8",
        "--config.model.layers=1",
        "--config.batch=2",
        "--config.mesh.data=2",
    ]
    given = [
        "scripts/plan.py",
        "--config=configs/lm.py:gru",
        *small,
        "--context=64",
        f"--cache={tmp_path}",
        f"--out={tmp_path / 'out'}",
    ]
    command = [sys.executable, *given, "--target=local:2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in (
        "training  2 rows, as configured: ",
        "training  largest batch: ",
        "serving   one sequence: ",
        "no data sheet",
    ):
        assert line in done.stdout
    about, (results,) = records.read(tmp_path / "out" / records.NAME)
    assert about["kind"] == "capacity" and results.source.config["model"]["dim"] == 8
    assert "scripts/plan.py" in results.source.provenance["command"]
    assert results.find("costs", "sequences", target="local:2", context=64).value > 0
    assert results.all("costs", "largest_batch")
    done = run_here(*given, "--target=tpu-v5")
    assert (
        done.returncode == 2
        and done.stderr.count("\n") == 1
        and "did you mean 'tpu-v5" in done.stderr
    )
