"""Surveys: what the tables say of measurements that are made up, and a whole program on this
machine.
"""

import csv
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs import memory
from seqarch.config import Config, ModelConfig, parse
from seqarch.costs import sweep
from seqarch.costs.memory import Measurement
from seqarch.costs.peak import Actual
from seqarch.costs.programs import serving_model
from seqarch.costs.spec import Failed
from seqarch.errors import UserError
from seqarch.model import count_parameters
from seqarch.report import sweep as sweep_tables

ROOT = Path(__file__).parents[2]
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
    said = []
    return sweep.run(Made(), {"one": CONFIG}, ["local", "tpu-v5e"], LENGTHS, say=said.append), said


def test_curves_exponents_and_what_fits(made):
    (one,), _ = made
    values = one.row.values
    assert (
        values["cache/train@65536"] == "640 KiB" and values["cache/train_exponent"] == "1.00 ± 0.00"
    )
    assert (
        values["cache/decode@16384"] == "failed"
        and values["cache/decode_exponent"] == "1.00 ± 0.00"
    )
    assert values["cache/train_longest"] == "102,400"  # of 104,857, on a grid of 4096
    assert values["cache/decode_longest"] == "1,048,576"
    assert (values["cache/sequences@4096"], values["cache/sequences@1048576"]) == ("256", "1")


def test_what_fails_is_a_line_and_the_rest_goes_on(made):
    _, said = made
    assert "one on tpu-v5e: no compiler" in said
    assert "one on local, decode of 16,384 tokens: the compiler crashed" in said
    with pytest.raises(UserError, match="no compiler"):
        sweep.run(Made(), {"one": CONFIG}, ["tpu-v5e"], LENGTHS, say=said.append)


def test_what_does_not_fit_says_what_it_needs():
    assert (
        sweep.describe(Measurement(0, 0, 0, 0, 0, 0, 0, 0, 136 << 30, "", 16 << 30, 0.0))
        == "needs 136 GiB of 16 GiB"
    )


class Split(Made):
    """Four devices of 2^20 bytes each: rows are split where there are enough of them, else their
    heads are.
    """

    def measure(self, spec):
        return Measurement(
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            -(-spec.batch // 4) * 2**21 if spec.batch % 4 == 0 else spec.batch * 2**19,
            "",
            2**20,
            1.0,
        )


def test_where_not_one_row_a_device_fits_rows_share_the_devices():
    assert sweep.most_sequences(Split(), CONFIG, "tpu-v5e:2x2", 1024) == (2, 3)


class Running(Made):
    """A cache whose steps take a fifth more than planned; that of 4096 tokens cannot be
    measured.
    """

    def run(self, spec):
        planned = self.measure(spec).total
        return (
            Failed("no peak is told") if spec.length == 4096 else Actual(planned, planned * 6 // 5)
        )


def test_steps_that_ran_stand_beside_their_plan():
    (one,) = sweep.run(
        Running(), {"one": CONFIG}, ["local"], LENGTHS, run_local=True, say=lambda line: None
    )
    assert [one.row.values.get(f"cache/actual@{length}") for length in LENGTHS] == [
        "12 KiB, planned 83 %",
        "not measured: no peak is told",
        "192 KiB, planned 83 %",
        None,  # it would take more than half of the memory
    ]
    planned = next(
        table
        for table in sweep_tables.tables([one])
        if table.title == "Planned and actual on local"
    )
    assert [column.title for column in planned.columns[1:]] == ["1,024", "4,096", "16,384"]


def test_tables_and_figures_are_of_each_target(made):
    surveys, _ = made
    titles = [table.title for table in sweep_tables.tables(surveys)]
    assert titles == [
        f"{what} on local"
        for what in ("Training step", "Prefill", "Decoding step", "Sequences at once")
    ]
    assert [figure.name for figure in sweep_tables.figures(surveys)] == [
        "train-local",
        "prefill-local",
        "decode-local",
    ]
    failed = [row.values for row in sweep_tables.cell_rows(surveys) if "failed" in row.values]
    assert [(row["phase"], row["length"]) for row in failed] == [("decode", 16384)]


def test_time_left_is_judged_by_what_was_measured(monkeypatch):
    clock, said = iter([0.0, 300.0, 360.0]), []
    monkeypatch.setattr(sweep.time, "monotonic", lambda: next(clock))
    progress = sweep.Progress(100, said.append)
    progress.done("found", 80, found_at_once=True)
    progress.done("measured", 5)
    assert said == ["[80%] found", "[85%, 15.0 min left] measured"]


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
    return {event.step for event in events.Scalars("train/total")}


def program(tmp_path, *arguments):
    command = [
        sys.executable,
        "scripts/memory.py",
        "--config=configs/memory.py",
        f"--workdir={tmp_path}",
        *arguments,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_program_writes_its_report_and_reuses_what_it_measured(tmp_path):
    arguments = [
        "--lengths=64,128,256,1k",
        "--config.members=('window = attention(window=64)',)",
        "--config.model.dim=16",
    ]
    done = program(
        tmp_path, *arguments, "--config.model.mlp=64", "--targets=local,gpu-h10,local:3x1"
    )
    assert done.returncode == 0, done.stderr
    left_out = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
    assert (
        len(left_out) == 2
        and "--lengths has '1k'" in left_out[0]
        and "did you mean 'gpu-h100'" in left_out[1]
    )
    assert "min left]" in done.stdout
    with (tmp_path / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {
        (row["name"], row["phase"], row["length"]) for row in rows if row["target"] == "local"
    } == {
        ("window", phase, length)
        for phase in ("train", "prefill", "decode")
        for length in ("64", "128", "256")
    }
    assert all(int(row["total"]) > 0 for row in rows)
    assert {row["target"] for row in rows} == {"local", "local:3x1"}
    report = (tmp_path / "report.md").read_text()
    assert "Sequences at once on local" in report and (tmp_path / "report.html").exists()
    assert "Made at revision " in report and "jaxlib " in report
    assert plotted(tmp_path / "tensorboard/local/window") == {64, 128, 256}


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
        (
            ["--config.mesh.data=2", "--config.mesh.fsdp=1", "--config.members=('gru',)"],
            "does not fit 1 devices",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, said):
    done = program(tmp_path, *arguments)
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1], done.stderr
    assert len(done.stderr.splitlines()) == 1
