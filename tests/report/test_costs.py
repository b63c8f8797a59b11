"""The report of a sweep: its tables, figures and points are of its records."""

import pytest

from seqarch.records import Record, Results, Source
from seqarch.report.costs import costs_page
from seqarch.report.formats import needed
from seqarch.report.render import cells

LENGTHS = (1024, 4096, 16384)
TARGETS = ("local", "tpu-v5e:2x2")
MEMORY = 2**20


def results_of(name, mixer, bytes_a_token):
    found = []
    for target in TARGETS:
        at = dict(target=target, phase="train")
        for length in LENGTHS:
            where, total = at | dict(context=length, batch=1), bytes_a_token * length
            status = "ok" if total <= MEMORY else "oom"
            found.append(
                Record("costs", "total_bytes", total, where, status=status, note="made up")
            )
            found.append(Record("costs", "device_bytes", MEMORY, where))
        found.append(Record("costs", "exponent", 1.0, at, n=3))
        found.append(Record("costs", "exponent_half", 0.25, at, n=3))
        longest = MEMORY // bytes_a_token
        found.append(Record("costs", "longest_context", longest, at))
        where = dict(target=target, context=131072)
        found.append(Record("costs", "sequences", 7, where, status="over"))
    failed = dict(target="local", phase="decode", context=1024, batch=1)
    found.append(Record("costs", "total_bytes", at=failed, status="failed", note="it crashed"))
    model = dict(mixer=mixer, dim=8, layers=2, vocab=257, dtype="float32")
    return Results(Source(name, "program", dict(model=model)), tuple(found))


@pytest.fixture(scope="module")
def page():
    ran = [Record("costs", "actual_bytes", at=dict(target="local", context=4096), status="failed")]
    for length in (64, 128, 1024):
        at = dict(target="local", context=length)
        ran.append(Record("costs", "planned_bytes", 10 * length, at))
        ran.append(Record("costs", "actual_bytes", 2**20 + 20 * length, at))
    gru = results_of("gru", "gru", 10)
    gru = gru._replace(records=(*gru.records, *ran))
    return costs_page("Costs", [gru, results_of("$$ mamba", "mamba", 100)])


@pytest.fixture(scope="module")
def tables(page):
    return {table.title: table for table in page.tables}


def row(table, name):
    (found,) = (line for line in cells(table) if line[0] == name)
    return dict(zip((column.title for column in table.columns), found, strict=True))


def test_a_phase_has_a_table_for_each_target(tables):
    for target in TARGETS:
        table = tables[f"Training step on {target}"]
        assert [line[0] for line in cells(table)] == ["gru", "$$ mamba"]
        assert "made up" in table.caption
        gru, mamba = row(table, "gru"), row(table, "$$ mamba")
        assert gru["16,384"] == "160 KiB" and gru["longest that fits"] == "104,857"
        assert "1.56 MiB" in mamba["16,384"] and "1 MiB" in mamba["16,384"]  # of what there is
        assert gru["exponent"].split()[0] == "1.00" and gru["exponent"].split()[-1] == "0.25"
    assert row(tables["Decoding step on local"], "gru")["1,024"] == "failed"
    assert "Prefill on local" not in tables, "of nothing there is no table"


def test_targets_stand_beside_each_other(tables):
    exponent = row(tables["Training step, exponent"], "gru")
    longest = row(tables["Training step, longest context"], "$$ mamba")
    sequences = row(tables["Sequences of 131,072 tokens at once"], "gru")
    for target in TARGETS:
        assert float(exponent[target].split()[0]) == 1
        assert longest[target] == "10,485"
        assert sequences[target].endswith(" 7") and sequences[target] != "7"  # at least
    only = results_of("gru", "gru", 10)
    local = tuple(each for each in only.records if each.at["target"] == "local")
    titles = {each.title for each in costs_page("", [only._replace(records=local)]).tables}
    assert not any("," in title for title in titles)


def test_what_ran_stands_beside_its_plan_with_what_they_have_in_common(tables):
    """actual = 1 MiB + 2 x planned, which the fit finds."""
    table = tables["Planned and actual on local"]
    found = row(table, "gru")
    assert found["1,024"].startswith("1.02 MiB") and " 1 %" in found["1,024"]
    assert "not measured" in found["4,096"]
    assert "1 MiB + 2.000" in table.caption
    assert len(table.rows) == 1


def test_figures_are_of_each_target_and_phase(page):
    assert [figure.name for figure in page.figures] == ["train-local", "train-tpu-v5e-2x2"]
    assert all("$$ mamba" in figure.svg for figure in page.figures)


def test_a_pattern_is_told_of_a_member_that_is_not_named_after_it(page):
    assert "$$ mamba is mamba" in page.made and "gru is" not in page.made


def test_what_does_not_fit_says_what_it_needs():
    needs = needed(136 << 30, 16 << 30)
    assert "136 GiB" in needs and "16 GiB" in needs
    assert needed(8 << 30, 16 << 30) == "8 GiB"
