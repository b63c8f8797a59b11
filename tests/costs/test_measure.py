"""Sweeps: what records say of measurements that are made up, and a whole program that runs here."""

import csv
import dataclasses

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs import memory
from seqarch import records
from seqarch.config import Config, ModelConfig, parse, to_dict
from seqarch.costs import measure
from seqarch.costs.curves import SERVED
from seqarch.costs.limits import MAX_CONTEXT, most_sequences
from seqarch.costs.memory import Measurement
from seqarch.costs.peak import Actual
from seqarch.costs.programs import serving_model
from seqarch.costs.results import METRICS
from seqarch.costs.spec import Failed
from seqarch.errors import UserError
from seqarch.model import count_parameters

CONFIG = Config(length=64, model=ModelConfig("gru", layers=1, dim=8, mlp=8))
LENGTHS = (1024, 4096, 16384, 65536)


class Made:
    """A cache of 2^20 bytes: training takes 10 bytes a token, the state 1 byte; a decoding step of
    16384 tokens crashes.
    """

    def measure(self, spec):
        if spec.target == "tpu-v5e":
            raise UserError("no compiler")
        if spec.phase == "decode" and spec.length == 16384:
            return Failed("the compiler crashed")
        state = spec.batch * spec.length if spec.phase == "decode" else 0
        total = state or 10 * spec.batch * spec.length
        return Measurement(0, 0, 0, state, 0, 0, 0, 0, total, "made up", 2**20, 1.0)

    def measure_all(self, specs):
        return [self.measure(spec) for spec in specs]


@pytest.fixture
def made():
    said, targets = [], ["local", "tpu-v5e"]
    return measure.run(Made(), {"one": CONFIG}, targets, LENGTHS, say=said.append), said


def at(phase, **more):
    return dict(target="local", phase=phase) | more


def test_bytes_are_those_of_each_program(made):
    (one,), _ = made
    for length in LENGTHS:
        total = one.find("costs", "total_bytes", **at("train", context=length, batch=1))
        assert (total.value, total.status, total.note) == (10 * length, "ok", "made up")
        where = at("decode", context=length, batch=1)
        assert one.value("costs", "device_bytes", **at("train", context=length, batch=1)) == 2**20
        if length != 16384:
            assert one.value("costs", "state_bytes", **where) == length
    assert len(one.all("costs", "total_bytes")) == 3 * len(LENGTHS)


def test_all_that_is_recorded_is_declared(made):
    declared = {metric.name for metric in METRICS}
    assert {record.metric for each in made[0] for record in each.records} <= declared


def test_exponents_and_what_fits(made):
    (one,), _ = made
    for phase in ("train", "prefill", "decode"):
        assert one.value("costs", "exponent", **at(phase)) == pytest.approx(1, abs=1e-9)
        assert one.value("costs", "exponent_half", **at(phase)) == pytest.approx(0, abs=1e-6)
    assert one.find("costs", "exponent", **at("decode")).n == 3  # one crashed
    longest = {phase: one.find("costs", "longest_context", **at(phase)) for phase in measure.SHARES}
    assert longest["train"].value == 102_400  # of 104,857, on a grid of 4096
    assert longest["decode"].value == 2**20 and longest["decode"].status == "ok"
    counts = [one.value("costs", "sequences", target="local", context=each) for each in SERVED]
    assert counts == [2**20 // each for each in SERVED]


def test_what_always_fits_has_at_least_the_last_size_tried():
    class Roomy(Made):
        def measure(self, spec):
            return super().measure(spec._replace(length=1, batch=1))

    (one,) = measure.run(Roomy(), {"one": CONFIG}, ["local"], LENGTHS, say=lambda line: None)
    longest = one.find("costs", "longest_context", **at("train"))
    assert (longest.value, longest.status) == (MAX_CONTEXT, "over")


def test_what_fails_is_a_record_and_a_line_and_the_rest_goes_on(made):
    (one,), said = made
    assert one.source.member == "one" and one.source.config == to_dict(CONFIG)
    failed = [each for each in one.records if each.status == "failed"]
    assert [(each.at["phase"], each.at["context"]) for each in failed] == [("decode", 16384)]
    assert failed[0].value is None and failed[0].note == "the compiler crashed"
    assert {each.at["target"] for each in one.records} == {"local"}
    assert sum("the compiler crashed" in line for line in said) == 1
    assert sum("no compiler" in line for line in said) == 1
    with pytest.raises(UserError, match="no compiler"):
        measure.run(Made(), {"one": CONFIG}, ["tpu-v5e"], LENGTHS, say=said.append)


class Split(Made):
    """Four devices of 2^20 bytes each: rows are split where there are enough of them, else their
    heads are.
    """

    def measure(self, spec):
        whole = spec.batch % 4 == 0
        total = -(-spec.batch // 4) * 2**21 if whole else spec.batch * 2**19
        return Measurement(0, 0, 0, 0, 0, 0, 0, 0, total, "", 2**20, 1.0)


def test_where_not_one_row_a_device_fits_rows_share_the_devices():
    assert most_sequences(Split(), CONFIG, "tpu-v5e:2x2", 1024) == (2, 3)


class Running(Made):
    """A cache whose steps take a fifth more than planned; that of 4096 tokens cannot be
    measured.
    """

    def run(self, spec):
        planned = self.measure(spec).total
        if spec.length == 4096:
            return Failed("no peak is told")
        return Actual(planned, planned * 6 // 5)


def test_steps_that_ran_stand_beside_their_plan():
    ran = dict(run_local=True, say=lambda line: None)
    (one,) = measure.run(Running(), {"one": CONFIG}, ["local"], LENGTHS, **ran)
    found = {each.at["context"]: each for each in one.all("costs", "actual_bytes")}
    assert list(found) == [1024, 4096, 16384]  # the last would take more than half of the memory
    assert (found[4096].status, found[4096].note) == ("failed", "no peak is told")
    for length in (1024, 16384):
        assert found[length].value == 12 * length
        assert one.value("costs", "planned_bytes", **found[length].at) == 10 * length


def test_steps_are_not_run_on_a_cpu_unless_it_is_asked_for(made):
    (one,), _ = made
    assert not one.all("costs", "actual_bytes")


@pytest.mark.parametrize(
    "size, parameters", [("1m", 1e6), ("125m", 125e6), ("1.3b", 1.3e9), ("8b", 8e9)]
)
def test_sizes_are_what_they_are_called(size, parameters):
    given = memory.get_config(size).to_dict()
    _, reference, _ = (given.pop(name) for name in ("name", "reference", "members"))
    model = dataclasses.replace(parse(given).model, mixer=reference)
    assert count_parameters(model) == pytest.approx(parameters, rel=0.1)
    if size == "8b":
        (cache, *_), layers = serving_model(model).init_state(1, 1)[0], model.layers
        assert cache.shape == (1, 8, 1, 128) and layers == 32


def plotted(directory):
    """The steps of the training curve's points."""
    events = EventAccumulator(str(directory), size_guidance={"tensors": 0}).Reload()
    return {event.step for event in events.Scalars("train/total_bytes")}


@pytest.mark.slow
def test_program_writes_its_report_and_reuses_what_it_measured(tmp_path, run_here):
    arguments = [
        "--config=configs/memory.py",
        f"--workdir={tmp_path}",
        "--lengths=64,128,1k",
        "--config.members=('wide = gru(hidden=24)',)",
        "--workers=1",
        "--config.model.dim=16",
        "--config.model.mlp=64",
        "--config.model.layers=1",
        "--targets=local,gpu-h10,local:2x1",
    ]
    done = run_here("scripts/memory.py", *arguments)
    assert done.returncode == 0, done.stderr
    left_out = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert (
        len(left_out) == 2
        and "--lengths has '1k'" in left_out[0]
        and "did you mean 'gpu-h100'" in left_out[1]
    )
    assert " left]" in done.stdout
    about, (wide,) = records.read(tmp_path / records.NAME)
    assert about["kind"] == "costs" and wide.source.member == "wide"
    totals = wide.all("costs", "total_bytes")
    assert all(each.value > 0 for each in totals)
    assert {(each.at["target"], each.at["phase"], each.at["context"]) for each in totals} == {
        (target, phase, context)
        for target in ("local", "local:2x1")
        for phase in ("train", "prefill", "decode")
        for context in (64, 128)
    }
    with (tmp_path / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(wide.records)
    report = (tmp_path / "report.md").read_text()
    assert "Sequences at once on local" in report and (tmp_path / "report.html").exists()
    assert plotted(tmp_path / "tensorboard/local/wide") == {64, 128}


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--targets=gpu-h10"], "did you mean 'gpu-h100'"),
        (["--lengths=0,x"], "--lengths has '0'"),
        (["--lengths="], "--lengths has ''; give numbers of tokens"),
        (["--targets="], "give at least one"),
        (
            ["--workdir=README.md/x", "--config.members=('gru',)", "--lengths=64"],
            "Not a directory; give another path",
        ),
        pytest.param(
            ["--config.mesh.data=2", "--config.mesh.fsdp=1", "--config.members=('gru',)"],
            "does not fit 1 devices",
            marks=pytest.mark.slow,  # a worker says it
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, run_here, arguments, said):
    usual = ["--config=configs/memory.py", f"--workdir={tmp_path}"]
    done = run_here("scripts/memory.py", *usual, *arguments)
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1], done.stderr
    assert len(done.stderr.splitlines()) == 1
