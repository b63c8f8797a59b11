"""The pages of docs/ and README.md are what their records say, and the committed records are of
what the pages are about.
"""

from pathlib import Path

import pytest

from configs import compare, memory
from seqarch import records
from seqarch.errors import UserError
from seqarch.evals.frontier import frontiers, slim
from seqarch.records import Record, Results, Source
from seqarch.report.members import read
from studies.docs import render
from tests.evals.frontier_runs import made_sweep

ROOT = Path(__file__).parents[2]
GROWING = {"attention materialised", "attention multi-head", "attention grouped"}
GROWING |= {"attention multi-query", "hybrid"}
TARGETS = ("local", "tpu-v5e", "gpu-h100")


@pytest.fixture
def root(tmp_path):
    """A repository with one record, and a page that shows it."""
    (tmp_path / "docs/results").mkdir(parents=True)
    found = (Record("quality", "bits_per_byte", 2.5),)
    results = [Results(Source("gru", config={"steps": 1}, split="test"), found)]
    records.write(tmp_path / "docs/results" / records.NAME, results, dict(title="One"))
    page = "before\n<!-- results/records.jsonl: At a glance -->\nold\n<!-- end -->\nafter\n"
    (tmp_path / "README.md").write_text(page)
    return tmp_path


def test_regions_are_replaced_and_the_rest_stays(root):
    stale = render(root, write=False)
    assert set(stale) == {root / "docs/results/report.md", root / "README.md"}
    assert "old" in (root / "README.md").read_text(), "nothing is written"
    assert render(root, write=True) == stale and render(root, write=False) == []
    text = (root / "README.md").read_text()
    assert "old" not in text and "gru" in text and "2.500" in text
    assert text.startswith("before\n<!-- ") and text.endswith("<!-- end -->\nafter\n")


def test_a_frontier_has_a_page_of_its_own(root):
    runs = made_sweep()
    (root / "docs/frontier").mkdir()
    found = [*frontiers(runs), *map(slim, runs)]
    about = dict(kind="frontier", title="Bytes")
    records.write(root / "docs/frontier" / records.NAME, found, about)
    region = "<!-- frontier/records.jsonl: The smallest state that recalls -->\n<!-- end -->\n"
    (root / "docs/frontier.md").write_text(region)
    written = {str(path.relative_to(root)) for path in render(root, write=True)}
    assert {"docs/frontier/report.md", "docs/frontier/figures/frontier.svg"} <= written
    assert "| gru     |      2 KiB |" in (root / "docs/frontier.md").read_text()


@pytest.mark.parametrize(
    "region, message",
    [
        ("results/records.jsonl: At a glanze", "did you mean 'At a glance'"),
        ("none/records.jsonl: At a glance", "docs/none/records.jsonl, which does not exist"),
    ],
)
def test_regions_of_nothing_are_told(root, region, message):
    (root / "README.md").write_text(f"<!-- {region} -->\n<!-- end -->\n")
    with pytest.raises(UserError, match=message):
        render(root, write=False)


@pytest.mark.slow
def test_every_page_is_what_its_records_say(run_here):
    done = run_here("scripts/docs.py", "--check")
    assert done == (0, "every page is what its records say\n", "")


def test_results_are_those_of_the_config():
    given, comparison = compare.get_config("long"), read(ROOT / "docs/results" / records.NAME)
    names = [member.name for member in comparison.models]
    assert names == [member.split(" = ")[0] for member in given.members]
    assert comparison.notice == given.notice
    for member in comparison.models:
        sizes = [member.config[name] for name in ("steps", "batch", "length")]
        assert sizes == [given.steps, given.batch, given.length]
        assert [each.source.seeds["model"] for each in member.results] == list(given.seeds)
        assert {each.source.split for each in member.results} == {given.split}


def costs_in(directory):
    about, results = records.read(ROOT / directory / records.NAME)
    assert about["kind"] == "costs"
    return {each.source.member: each for each in results}


@pytest.fixture(scope="module")
def costs():
    return costs_in("docs/memory")


def test_costs_are_those_of_the_config(costs):
    names = [member.split(" = ")[0] for member in memory.get_config("1m").members]
    assert list(costs) == names


@pytest.mark.parametrize("target", TARGETS)
def test_exponents_are_what_they_must_be(costs, target):
    """Training 2.0 +- 0.1 where the matrix is built, else 1.0 +- 0.1; what is decoded with is
    constant or grows with N.
    """
    for name, results in costs.items():
        train, decode = (
            results.value("costs", "exponent", target=target, phase=phase)
            for phase in ("train", "decode")
        )
        assert train == pytest.approx(1 + (name == "attention materialised"), abs=0.1), name
        assert decode == pytest.approx(float(name in GROWING), abs=0.005), name


def test_what_fits_is_told_by_its_status(costs):
    for results in costs.values():
        for total in results.all("costs", "total_bytes"):
            if total.status != "failed":
                memory = results.value("costs", "device_bytes", **total.at)
                assert (total.value <= memory) == (total.status == "ok")


def test_steps_that_ran_were_planned_within_15_per_cent_at_a_gigabyte():
    large = {}
    for name, results in costs_in("docs/memory/actual").items():
        for actual in results.all("costs", "actual_bytes"):
            if actual.value and actual.value >= 1e9:
                planned = results.value("costs", "planned_bytes", **actual.at)
                large[name] = planned / actual.value
                assert 0.85 <= large[name] <= 1.15, (name, actual)
    assert len(large) >= 4
