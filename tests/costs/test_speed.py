"""Records and tables of estimated times, on timings that are made up."""

import dataclasses

import pytest

from seqarch import records
from seqarch.config import to_dict
from seqarch.costs import capacity, measure, roofline
from seqarch.costs.clock import Timing
from seqarch.costs.devices import place
from seqarch.costs.memory import Measurement
from seqarch.costs.results import METRICS
from seqarch.costs.schedule import Seconds
from seqarch.costs.spec import Failed, ProgramSpec
from seqarch.costs.speed import speed_records, spent, tokens_of, with_costs
from seqarch.costs.time import ESTIMATED
from seqarch.records import Results, Source
from seqarch.report.capacity import serving_lines, training_lines
from seqarch.report.cost_tables import target_tables
from seqarch.report.costs import costs_page
from seqarch.report.formats import format_duration
from seqarch.report.render import text_table
from seqarch.training.meter import step_flops
from tests.costs import test_capacity
from tests.costs.test_measure import CONFIG, Made

KINDS = ("estimated", "measured")
TIMING = Seconds(0.0065, 0.003, 0.0, 0.0004, 0.0001)
MEASURED = Measurement(2**20, 0, 0, 2**10, 0, 0, 0, 0, 2**21, "made up", 2**30, 1e9)


def spec(phase="train", batch=4, length=32, target="tpu-v5e"):
    return ProgramSpec(CONFIG, phase, batch, length, target)


def found(spec, timing=TIMING, price=None, outcome=MEASURED):
    made = with_costs(speed_records(spec, outcome, timing), place(spec.target), price)
    return Results(Source("one"), tuple(made))


@pytest.mark.parametrize(
    "phase, length, tokens",
    [("train", 32, 4 * 32), ("prefill", 32, 4 * 32), ("prefill", 4096, 4 * 64), ("decode", 9, 4)],
)
def test_tokens_of_a_call(phase, length, tokens):
    assert tokens_of(spec(phase, length=length)) == tokens


def test_speeds_follow_from_the_estimate_and_stand_beside_the_roofline():
    made = found(spec(), price=3.6)
    at = dict(target="tpu-v5e", phase="train", context=32, batch=4)
    time = made.find("costs", "estimated_s", **at)
    assert time.value == 0.01
    assert time.note.startswith("65 % computing, 30 % moving data, 4 % waiting for memory")
    speed = made.value("costs", "estimated_tokens_per_s", **at)
    assert speed == 4 * 32 / 0.01
    assert made.value("costs", "estimated_cost", **at) == pytest.approx(3.6 / 3600 / speed * 1e6)
    config = dataclasses.replace(CONFIG, batch=4, length=32)
    share = step_flops(config) / 0.01 / place("tpu-v5e").target.flops
    assert made.value("costs", "estimated_mfu", **at) == pytest.approx(share)
    bound = roofline.bound(CONFIG, place("tpu-v5e"), MEASURED, 4 * 32)
    assert made.value("costs", "bound_tokens_per_s", **at) == bound.tokens
    limit = made.find("costs", "bound_s", **at)
    assert limit.value == 4 * 32 / bound.tokens and limit.note == f"limited by {bound.limit}"
    assert not found(spec()).all("costs", "estimated_cost")


def test_several_chips_share_the_work_and_the_price():
    one, four = (found(spec(target=each), price=1.0) for each in ("tpu-v5e", "tpu-v5e:2x2"))
    for metric, factor in (("estimated_mfu", 1 / 4), ("estimated_cost", 4)):
        (alone,), (shared,) = one.all("costs", metric), four.all("costs", metric)
        assert shared.value == pytest.approx(alone.value * factor)


def test_a_refused_estimate_says_why_and_a_gpu_has_its_roofline_only():
    refused = found(spec(), Failed("%k (a custom call of tpu_custom_call)"))
    (time,) = refused.all("costs", "estimated_s")
    assert (time.value, time.status) == (None, "failed") and "tpu_custom_call" in time.note
    assert refused.all("costs", "bound_s") and not refused.all("costs", "estimated_mfu")
    gpu = found(spec(target="gpu-h100"), None, price=1.0)
    assert {each.metric for each in gpu.records} == {
        *("bound_s", "bound_tokens_per_s", "million_tokens_cost")
    }
    assert not found(spec(target="local"), None).records


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.0761, "76.1 ms"),
        (6.294e-6, "6.29 us"),
        (3e-10, "0.3 ns"),
        (1.0, "1 s"),
        (999.9, "1,000 s"),
    ],
)
def test_durations_have_three_digits(seconds, text):
    assert format_duration(seconds) == text


def test_what_an_estimate_is_spent_on():
    assert spent(Seconds(0.2, 0.7, 0.1, 0.0, 0.0)) == (
        "70 % moving data, 20 % computing, 10 % kernels"
    )


class Timed(Made):
    """A cache that also estimates: nothing can be counted of prefill."""

    def estimate_all(self, specs):
        return [Failed("%x (a sort)") if each.phase == "prefill" else TIMING for each in specs]

    def measure(self, spec):
        return super().measure(spec._replace(target="local"))

    def sheet(self, target):
        return target


class Present(Timed):
    """A cache on a machine with a TPU v5e, where training takes 20 ms and decoding fails."""

    def sheet(self, target):
        return "tpu-v5e" if target == "local" else target

    def clock(self, spec):
        return Failed("it crashed") if spec.phase == "decode" else Timing(0.02, 0.01, 0.03)

    def run(self, spec):
        return Failed("not here")


def tables(results, target):
    return {each.title: each for each in target_tables(results, target) if each.rows}


def test_the_tables_label_estimates_and_old_records_have_none():
    run = dict(say=lambda line: None, timed=True, price=1.2)
    results = measure.run(Timed(), {"one": CONFIG}, ["tpu-v5e", "gpu-h100"], (64, 128), **run)
    declared = {metric.name for metric in METRICS}
    assert {each.metric for result in results for each in result.records} <= declared
    tpu, gpu = tables(results, "tpu-v5e"), tables(results, "gpu-h100")
    train = tpu[f"Training step on tpu-v5e: time {ESTIMATED}"]
    assert [column.title for column in train.columns][:6] == [
        *("model", "context"),
        *(f"estimated: {each}" for each in ("time", "tokens/s", "MFU", "cost of 10^6 tokens")),
    ]
    assert len(train.rows) == 2 and train.rows[0].cells[:3] == ("one", 64, 0.01)
    assert ESTIMATED in train.caption and "10 ms" in text_table(train)
    prefill = tpu[f"Prefill on tpu-v5e: time {ESTIMATED}"]
    assert "no estimate: %x (a sort)" in text_table(prefill)
    bound = gpu["Training step on gpu-h100: roofline only"]
    assert "tells no times" in bound.caption and ESTIMATED not in text_table(bound)
    untimed = measure.run(Made(), {"one": CONFIG}, ["local"], (64, 128), say=lambda line: None)
    assert not any("time" in title or "roofline" in title for title in tables(untimed, "local"))


def test_a_present_device_has_its_measured_time_beside_the_estimate():
    run = dict(say=lambda line: None, timed=True, price=1.0, run_local=True)
    results = measure.run(Present(), {"one": CONFIG}, ["local"], (64, 2**20), **run)
    declared = {metric.name for metric in METRICS}
    assert {each.metric for result in results for each in result.records} <= declared
    (one,) = results
    at = dict(target="local", phase="train", context=64, batch=1)
    assert one.value("costs", "measured_s", **at) == 0.02
    speed = one.value("costs", "measured_tokens_per_s", **at)
    assert speed == 64 / 0.02 and one.value("costs", "measured_cost", **at)
    estimated, measured = (one.value("costs", f"{kind}_mfu", **at) for kind in KINDS)
    assert measured == pytest.approx(estimated * 0.01 / 0.02)
    assert one.value("costs", "bound_s", **at) > 0
    assert len(one.all("costs", "measured_s", phase="train")) == 1  # the other does not fit
    shown = tables(results, "local")
    train = shown[f"Training step on local: time measured, and {ESTIMATED}"]
    assert train.rows[0].cells[:3] == ("one", 64, 0.02)
    assert one.all("costs", "measured_s", phase="decode")[0].note == "it crashed"
    unrun = measure.run(Present(), {"one": CONFIG}, ["local"], (64,), **run | {"run_local": False})
    assert not unrun[0].all("costs", "measured_s")


def test_programs_that_do_not_fit_are_not_timed():
    cache = Timed()
    (one,) = measure.run(
        cache, {"one": CONFIG}, ["tpu-v5e"], (64, 2**20), say=lambda line: None, timed=True
    )
    assert [each.at["context"] for each in one.all("costs", "estimated_s", phase="train")] == [64]


def test_records_of_times_are_written_and_read_and_a_page_shows_them(tmp_path):
    source = Source("one", "program", to_dict(CONFIG))
    made = Results(source, found(spec(), price=1.0).records)
    records.write(tmp_path / records.NAME, [made])
    _, read = records.read(tmp_path / records.NAME)
    assert read == [made]
    assert any(ESTIMATED in table.title for table in costs_page("Costs", read).tables)


class Planned(test_capacity.Made):
    """A cache of the planner that also estimates: nothing can be counted of decoding."""

    def estimate_all(self, specs):
        return [Failed("%x (a sort)") if each.phase == "decode" else TIMING for each in specs]


def test_the_planner_tells_times_where_it_is_asked():
    given = test_capacity.CONFIG, test_capacity.FOUR, 64
    results = Results(Source("gru", config=to_dict(test_capacity.CONFIG)), ())
    for plan in (capacity.training_capacity, capacity.serving_capacity):
        found = plan(Planned(1000), *given, timed=True)
        results = results.with_found(with_costs(found, test_capacity.FOUR, 3.0))
    lines = [line for line in training_lines(results) if ESTIMATED in line]
    assert len(lines) == 1 and "10 ms a step, 102 k tokens/s, MFU" in lines[0]
    assert lines[0].endswith("a million tokens cost 0.0326")
    lines = [line for line in serving_lines(results) if ESTIMATED in line]
    # the prefill of all sequences at once does not fit
    assert ["a segment" in line for line in lines] == [True, False, False]
    assert lines[1] == f"no time is {ESTIMATED}: %x (a sort)"
    untimed = capacity.training_capacity(Planned(1000), *given)
    assert not any(each.metric.startswith("estimated") for each in untimed)
