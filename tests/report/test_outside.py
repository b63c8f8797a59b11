"""The tables of a model from outside are of its records, which are made up here."""

import pytest

from seqarch.records import Fact, Record, Results, Source
from seqarch.report.outside import outside_heading, outside_notes, outside_tables, ranges
from seqarch.report.render import text_table

KIB, LAYERS = 1024, dict(layer=[0, 1, 2])


def results_of(windows=True, target=None, most=7, memory=16, notes=()):
    made = [Record("costs", "params", 4096), Record("costs", "parameters_bytes", 8 * KIB)]
    made += [
        Record("costs", "params_around", 96),
        Record("costs", "layer_params", [5, 6, 5], LAYERS),
    ]
    made.append(Record("costs", "layer_token_bytes", [0, 2, 0], LAYERS))
    made.append(Record("costs", "layer_constant_bytes", [512, 0, 512], LAYERS))
    for context, note in ((64, ""), (128, "beyond the 100 positions of the config")):
        at = dict(context=context)
        made.append(Record("costs", "state_bytes", 2 * KIB, at, note=note))
        made.append(Record("costs", "growing_bytes", KIB, at))
        made.append(Record("costs", "constant_bytes", KIB, at))
        made.append(Record("costs", "unbounded_bytes", (3 if windows else 2) * KIB, at))
        if target:
            status = "over" if most > 7 else "ok"
            made.append(Record("costs", "sequences", most, at | dict(target=target), status=status))
    facts = dict(dtype="bfloat16", weights_dtype="bfloat16", state_dtypes=["float32"])
    facts |= dict(layer_kinds=["mamba", "attention", "mamba"], notes=list(notes))
    if target:
        made.append(Record("costs", "device_bytes", memory * KIB, dict(target=target)))
        facts |= dict(target=target, memory_source="a sheet")
    found = [*made, *(Fact("costs", *each) for each in facts.items())]
    return Results(Source("jamba", "outside"), ()).with_found(found)


def test_the_heading_says_what_the_parameters_take():
    line = outside_heading(results_of())
    assert all(each in line for each in ("jamba", "4.1 k", "4,096", "8 KiB in bfloat16"))


def test_layers_are_grouped_by_kind():
    layers, _ = outside_tables(results_of())
    mamba, attention, around = (row.cells for row in layers.rows)
    assert mamba == ("mamba", 2, "0, 2", 5, 0, 512)
    assert attention == ("attention", 1, "1", 6, 2, 0)
    assert around[3] == 96 and len(around) == len(layers.columns)


@pytest.mark.parametrize("windows", [True, False])
def test_the_state_is_shown_by_context(windows):
    _, states = outside_tables(results_of(windows, "gpu-h100"))
    titles = [column.title for column in states.columns]
    assert ("without windows" in titles) == windows and titles[-1] == "sequences on gpu-h100"
    first, second = (row.cells for row in states.rows)
    assert first[:4] == ("64", KIB, KIB, 2 * KIB) and first[-1] == "7"
    assert second[0] == "128 (beyond the 100 positions of the config)"
    assert "2 KiB" in text_table(states)


def test_notes_say_what_the_numbers_are():
    derived, without = outside_notes(results_of())
    assert "neither compiled nor measured" in derived and "float32" in derived
    assert without.startswith("Without windows")
    *_, sequences, more = outside_notes(results_of(False, "gpu-h100", notes=["It is so."]))
    assert "16 KiB of gpu-h100" in sequences and "a sheet" in sequences and more == "It is so."
    *_, last = outside_notes(results_of(False, "gpu-h100", memory=4))
    assert last == "The parameters alone do not fit."


def test_a_search_that_ended_says_at_least():
    _, states = outside_tables(results_of(target="gpu-h100", most=8))
    assert states.rows[0].cells[-1] == "at least 8"


@pytest.mark.parametrize(
    ("layers", "text"),
    [([0], "0"), ([0, 1, 2, 4], "0-2, 4"), (range(0, 20, 2), "0, 2, 4, 6, ..., 18")],
)
def test_ranges_leave_the_middle_of_many_out(layers, text):
    assert ranges(layers) == text
