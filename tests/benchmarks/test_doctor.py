"""The doctor's tables say what a machine has and how fast it is."""

import jax
import pytest

from benchmarks import doctor
from benchmarks.cases import Sizes
from benchmarks.measure import CaseTiming, Limits
from seqarch.costs.memory import Measurement
from seqarch.costs.schedule import Seconds
from seqarch.errors import UserError
from seqarch.mixers import MIXERS, resolve_mixer
from seqarch.report.render import cells


@pytest.fixture(scope="module")
def tables():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "CORE", ("gru",))
        patch.setattr(doctor, "SIDE", 64)
        patch.setattr(doctor, "SIZES", Sizes(dim=8, train=(2, 8)))
        patch.setattr(doctor, "LIMITS", Limits(rounds=(1, 1)))
        said = []
        found = {table.title: table for table in doctor.examine(said.append)}
        assert len(said) == 2
        return found


@pytest.mark.slow
def test_software_and_devices_are_told(tables):
    told = {row[0]: row[1] for row in cells(tables["Software"])}
    assert told["jax"] == jax.__version__
    (device,) = cells(tables["Devices"])
    assert device[1] == "cpu" and device[-1] == "no data sheet"


@pytest.mark.slow
def test_every_mixer_with_forms_has_one(tables):
    told = {row[0]: row[1] for row in cells(tables["Forms"])}
    assert told.keys() == {name for name in MIXERS if resolve_mixer(name).forms}
    assert told["mamba"] == "method=recompute"


@pytest.mark.slow
def test_speed_is_measured_against_the_data_sheet(tables, monkeypatch):
    assert [row.cells[0] for row in tables["Products"].rows] == ["float32", "bfloat16"]
    assert all(row.cells[1] > 0 and row.cells[2] is None for row in tables["Products"].rows)
    (step,) = tables["Train steps"].rows
    name, seconds, rate, flops, share, program, _, skipped = step.cells
    assert name == "gru" and rate == pytest.approx(16 / seconds) and program > 0
    assert flops * seconds > 6 * 2 * 8 * 8 * 257 and share is None and skipped is None
    monkeypatch.setattr(doctor, "peak_flops", lambda device: 1e9)
    assert doctor.products().rows[1].cells[2] > 0


def test_what_was_expected_of_a_known_device_stands_beside_what_was_measured(monkeypatch):
    timed = CaseTiming("train_step", "gru", "", "train", seconds=0.5, total=7, start_seconds=3.0)
    monkeypatch.setattr(doctor, "measure", lambda cases, limits: [timed])
    monkeypatch.setattr(doctor, "sheet_of", lambda target: "tpu-v5e")
    monkeypatch.setattr(doctor, "MeasurementCache", Estimates)
    table = doctor.train_steps(["gru"])
    titles = [column.title for column in table.columns]
    row = dict(zip(titles, table.rows[0].cells, strict=True))
    assert row["seconds"] == 0.5 and row["estimated"] == 0.25 and 0 < row["roofline"] < 0.25
    monkeypatch.setattr(Estimates, "measure", fails)
    row = dict(zip(titles, doctor.train_steps(["gru"]).rows[0].cells, strict=True))
    assert row["seconds"] == 0.5 and row["estimated"] is None and row["program"] == 7


def fails(self, spec):
    raise UserError("tpu-v5e needs its compiler")


class Estimates:
    """A cache in which a step takes 0.25 s."""

    def __init__(self, directory):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def measure(self, spec):
        return Measurement(2**20, 0, 0, 2**10, 0, 0, 0, 0, 2**21, "made up", 2**30, 1e9)

    def estimate_all(self, specs):
        return [Seconds(0.25, 0.0, 0.0, 0.0, 0.0) for _ in specs]


def test_a_step_that_is_not_timed_says_why(monkeypatch):
    skipped = CaseTiming("train_step", "gru", "", "train", total=7, skipped="temporaries of 9.0 GB")
    monkeypatch.setattr(doctor, "measure", lambda cases, limits: [skipped])
    (row,) = cells(doctor.train_steps(["gru"]))
    assert row[0] == "gru" and row[-1] == "temporaries of 9.0 GB"
