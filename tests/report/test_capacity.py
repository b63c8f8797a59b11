"""The lines of a plan are of its records, which are made up here."""

import pytest

from seqarch.records import Fact, Record, Results, Source
from seqarch.report.capacity import heading, serving_lines, source_line, training_lines

PLACE = dict(target="tpu-v5e:2x2", context=4096)
KIB = 1024


def results_of(*found):
    facts = PLACE | dict(devices=4, data_sheet="a sheet", memory_source="a compiler")
    config = dict(batch=13, model=dict(mixer="mamba"))
    made = Results(Source("mamba", "program", config), (Record("costs", "params", 1_530_000),))
    return made.with_found([*(Fact("costs", *each) for each in facts.items()), *found])


def program(phase, batch, parts=(1, 2, 3, 4), memory=16, status="ok", **more):
    """The records of a program whose parts need so many KiB."""
    at = PLACE | dict(phase=phase, batch=batch) | more
    if status == "failed":
        return [Record("costs", "total_bytes", None, at, status=status, note="it crashed")]
    made = [Record("costs", "total_bytes", sum(parts) * KIB, at, status=status)]
    made.append(Record("costs", "device_bytes", memory * KIB, at))
    names = ("parameters", "optimizer", "state", "working")
    for name, size in zip(names, parts, strict=True):
        made.append(Record("costs", f"{name}_bytes", size * KIB, at))
    return made


def largest(value, beyond, change):
    at = PLACE | dict(phase="train", change=change)
    made = [Record("costs", "largest_batch", value, at, status="ok" if beyond else "over")]
    return made + ([Record("costs", "batch_beyond", beyond, at)] if beyond else [])


def speed(phase, batch, value, price=None, **more):
    at = PLACE | dict(phase=phase, batch=batch) | more
    made = [Record("costs", "bound_tokens_per_s", value, at, note="limited by compute")]
    return made + ([Record("costs", "million_tokens_cost", price, at)] if price else [])


TRIED = program("train", 16, status="oom", parts=(10, 2, 3, 4), change="")
CHOSEN = program("train", 16, change="model.remat=True")
FIRST = [*program("decode", 1), *program("prefill", 1, parts=(1, 1, 1, 1))]


def sequences(value, status="ok"):
    return Record("costs", "sequences", value, PLACE, status=status)


def test_the_heading_says_which_model_is_placed_where():
    line = heading(results_of())
    assert all(each in line for each in ("mamba", "1.53 M", "4,096", "tpu-v5e:2x2"))


def test_training_says_what_was_tried_and_what_was_chosen():
    fast = speed("train", 16, 2.5e6, change="model.remat=True")
    found = results_of(*TRIED, *CHOSEN, *largest(24, 28, "model.remat=True"), *fast)
    rounded, tried, fits, chosen, batch, rate = training_lines(found)
    assert all(each in rounded for each in ("13 rows", "4 devices", "16 "))
    assert "as configured" in tried and "needs 19 KiB of 16 KiB" in tried
    assert "model.remat=True" in fits and "10 KiB of 16 KiB" in fits
    assert chosen.startswith("model.remat=True") and "activations" in chosen
    assert "24 rows fit, 28 do not" in batch
    assert "2.5 M tokens/s" in rate and "compute" in rate and "cost" not in rate


@pytest.mark.parametrize(
    "last, words",
    [(dict(status="oom"), "activations"), (dict(status="failed"), "fails to compile")],
)
def test_training_says_what_keeps_it_from_fitting(last, words):
    found = [*TRIED, *program("train", 16, change="model.remat=True", **last)]
    *_, obstacle, batch = training_lines(results_of(*found, *largest(0, 16, "model.remat=True")))
    assert words in obstacle and "0 rows fit, 16 do not" in batch


def test_the_search_for_a_batch_may_end_before_one_does_not_fit():
    *_, batch = training_lines(results_of(*CHOSEN, *largest(1 << 20, None, "model.remat=True")))
    assert "1,048,576 rows fit or more" in batch


def test_serving_says_how_many_fit_and_how_fast_they_are():
    every = program("decode", 12, parts=(1, 0, 9, 2))
    speeds = [*speed("prefill", 1, 3e3, context=2048), *speed("decode", 12, 4e3, price=0.0123)]
    found = results_of(*FIRST, sequences(12), *every, *speeds)
    one, most, prefill, decode = serving_lines(found)
    assert "10 KiB of 16 KiB" in one and "4 KiB of 16 KiB" in one
    assert most.startswith("12 ") and "12 KiB of 16 KiB" in most and most.endswith("the state")
    assert "prefill of one" in prefill and "3 k tokens/s" in prefill and "cost" not in prefill
    assert "decoding of 12" in decode and "4 k tokens/s" in decode and "0.0123" in decode


def test_serving_says_where_the_search_ended():
    _, most, *_ = serving_lines(results_of(*FIRST, sequences(1, "over")))
    assert most.startswith("at least 1 ")


@pytest.mark.parametrize(
    "decode, prefill, words",
    [
        (dict(status="oom", parts=(17, 0, 0, 0)), dict(status="oom"), "parameters"),
        (dict(), dict(status="oom", parts=(1, 17, 0, 0)), "the optimizer"),
        (dict(), dict(status="failed"), "fails to compile"),
    ],
)
def test_serving_says_what_keeps_one_sequence_from_fitting(decode, prefill, words):
    found = [*program("decode", 1, **decode), *program("prefill", 1, **prefill)]
    one, obstacle = serving_lines(results_of(*found, sequences(0)))
    assert words in obstacle
    assert ("it crashed" in one) == (prefill["status"] == "failed")


def test_a_speed_without_a_bound_says_why():
    at = PLACE | dict(phase="decode", batch=1)
    missing = Record("costs", "bound_tokens_per_s", at=at, status="not_run", note="no sheet")
    *_, line = serving_lines(results_of(*FIRST, sequences(1), missing))
    assert "decoding of one" in line and "no sheet" in line
    at = PLACE | dict(phase="train", batch=16, change="model.remat=True")
    missing = Record("costs", "bound_tokens_per_s", at=at, status="not_run", note="no sheet")
    found = results_of(*CHOSEN, *largest(16, 20, "model.remat=True"), missing)
    assert not any("speed" in line for line in training_lines(found))


def test_the_source_of_memory_and_rates_is_told():
    found = results_of()
    assert "a compiler" in source_line(found) and "a sheet" in source_line(found)
    same = found.with_found([Fact("costs", "memory_source", "a sheet")])
    assert source_line(same).count("a sheet") == 1 and source_line(same).startswith("Memory")
    assert source_line(found.with_found([Fact("costs", "data_sheet", "")])) == ""
