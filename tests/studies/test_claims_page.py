"""Records of claims are written as they are measured, and the page shows what they say."""

import re
from pathlib import Path

import pytest

from seqarch.errors import UserError
from seqarch.records import Results, Source, read, write
from seqarch.report.pages import markdown_page
from seqarch.report.tables import Column
from studies.claims import page, run
from studies.claims.base import Claim, Finding, Verdict
from studies.claims.evidence import EVALUATOR, record, value
from studies.claims.setup import Setup

ROOT = Path(__file__).parents[2]


def test_the_committed_records_are_of_these_claims():
    """tests/docs renders their page."""
    about, results = read(ROOT / "docs/claims/records.jsonl")
    assert about["kind"] == EVALUATOR
    by_name = {claim.name: claim for claim in page.CLAIMS}
    assert [each.source.member for each in results] == list(by_name)
    for each in results:
        assert by_name[each.source.member].finding(each).verdict is not Verdict.OPEN


@pytest.fixture
def two(monkeypatch):
    """Two claims, the second of which cannot be measured."""

    def measure(setup):
        yield record("rate", 0.5)

    def stop(setup):
        raise UserError("no compiler")

    def judge(found):
        columns, row = [Column("share", "percent"), Column("none")], [value(found, "rate"), None]
        return Finding(Verdict.REFUTED, "2 | 3", "<b>", columns, {"one|two": row})

    claims = Claim("first", "It is *so*.", "$x$", measure, judge)
    claims = claims, Claim("second", "And so.", "", stop, judge)
    for module in (run, page):
        monkeypatch.setattr(module, "CLAIMS", claims)


def test_records_are_written_after_each_claim_and_others_stay(two, tmp_path):
    path, said = tmp_path / "out/records.jsonl", []
    kept = Results(Source("earlier", "program"), (record("rate", 2),))
    path.parent.mkdir()
    write(path, [kept], dict(kind=EVALUATOR))

    def say(line):
        said.append((line, len(read(path).results)))

    setup = Setup(**dict.fromkeys(Setup._fields))._replace(targets=["local"], say=say)
    results = run.record_all(setup, path)
    assert [each.source.member for each in results] == ["earlier", "first", "second"]
    assert read(path).results == results
    assert ("  refuted: 2 | 3", 2) in said and ("  not measured: no compiler", 3) in said
    assert results[1].fact(EVALUATOR, "targets") == setup.targets
    write(path, [kept])
    with pytest.raises(UserError, match="give another --out"):
        run.record_all(setup, path)


def test_a_page_of_a_damaged_source_is_refused_in_one_line(two):
    with pytest.raises(UserError, match="the source of first is damaged"):
        page.claims_page([Results(Source("first"), (record("rate", 0.5),))])


def test_page_shows_each_finding_and_escapes_it(two):
    made = dict(revision="0123456789abcdef", versions=dict(python="3", jax="1"), host=dict(cpus=2))
    source = Source("first", provenance=made, facts={EVALUATOR: dict(targets=["local"])})
    shown = page.claims_page([Results(source, (record("rate", 0.5),))])
    assert [table.title for table in shown.tables] == ["Verdicts", "It is *so*."]
    text = markdown_page(shown)
    assert "0123456789" in text and "0123456789abcdef" not in text
    assert "<b>" not in text and "$x$" not in text and "*so*" not in text.replace("\\*", "")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [4] * 6
    assert rows[-1].replace(" ", "") == "|one\\|two|50.0%|–|"
