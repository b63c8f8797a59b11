"""Records files give back what was written, and refuse what they did not write in one line."""

import dataclasses
import json
import math

import pytest

from seqarch import records
from seqarch.errors import UserError
from seqarch.records import Fact, Record, Results, Source, answers, fresh, read, tag, write

MADE = dict(revision="0123abc", dirty=False, versions={"jax": "0.10"})
MADE |= dict(devices=dict(platform="cpu", kind="cpu", count=1))
SOURCE = Source(
    "gru",
    config={"steps": 3, "model": {"mixer": "gru"}, "log_every": 10},
    step=3,
    split="test",
    seeds={"model": 1, "data": 2},
    provenance=MADE,
    facts={"memory": {"definition": "peak"}},
)
RECORDS = (
    Record("quality", "bits_per_byte", 2.0 + 1 / 3, n=4),
    Record("memory", "state_bytes", 65536, {"context": 4096}),
    Record("memory", "train_bytes", at={"context": 4096}, status="oom", note="136 GiB of 16"),
    Record("quality", "document_bytes", [1, 2], {"document": ["a", "\u2028\x00b"]}),
    Record("costs", "longest_context", 2**24, {"target": "local"}, status="over"),
)


def test_what_is_written_is_read(tmp_path):
    results = [Results(SOURCE, RECORDS), Results(Source("xz", "baseline"), RECORDS[:1])]
    write(tmp_path / "r.jsonl", results, dict(title="two"))
    assert read(tmp_path / "r.jsonl") == ({"title": "two"}, results)
    write(tmp_path / "empty.jsonl", [])
    assert read(tmp_path / "empty.jsonl") == ({}, [])


def test_a_record_is_found_by_what_it_was_measured_at():
    results = Results(SOURCE, RECORDS)
    assert results.value("memory", "state_bytes", context=4096) == 65536
    assert results.find("memory", "state_bytes", context=1) is None
    assert results.value("quality", "document_bytes", document=("a", "\u2028\x00b")) == [1, 2]
    assert results.all("memory", "train_bytes") == [RECORDS[2]]
    assert results.evaluators == ("quality", "memory", "costs")
    assert results.fact("memory", "definition") == "peak" and results.fact("speed", "x") is None


def test_facts_and_records_are_added_to_new_results():
    found = Results(SOURCE, RECORDS[:1]).with_found([RECORDS[1], Fact("speed", "clock", "wall")])
    assert found.records == RECORDS[:2]
    assert found.source.facts == {"memory": {"definition": "peak"}, "speed": {"clock": "wall"}}
    assert "speed" not in SOURCE.facts


@pytest.mark.parametrize("value", [math.nan, math.inf, [1.0, math.nan], [[-math.inf]]])
def test_what_is_not_finite_has_no_value_and_diverged(tmp_path, value):
    write(tmp_path / "r.jsonl", [Results(SOURCE, (Record("quality", "bits_per_byte", value),))])
    ((_, (record,)),) = read(tmp_path / "r.jsonl").results
    assert (record.value, record.status) == (None, "diverged")


def lines(*more, version=records.VERSION, about=None):
    first = dict(version=version, about=about or {})
    source = dict(source=dataclasses.asdict(SOURCE), id="x")
    return [json.dumps(each) for each in (first, source, *more)]


def source(**changes):
    return json.dumps(dict(source=dataclasses.asdict(SOURCE) | changes, id="y"))


def measured(**changes):
    return lines(dict(run="x", evaluator="quality", metric="bits_per_byte") | changes)


DAMAGED = {
    "nothing": [],
    "text": ["To be, or not to be"],
    "list": ["[1]"],
    "cut": [*lines()[:1], lines()[1][:40]],
    "deep": [*lines(), "[" * 100_000 + "]" * 100_000],
    "no run": lines(dict(run="z", evaluator="quality", metric="bits_per_byte")),
    "no field": lines(dict(run="x", evaluator="quality", metric="bits_per_byte", unit="bits")),
    "no metric": lines(dict(run="x", evaluator="quality")),
    "status": measured(status="fine"),
    "value": measured(value="2.5"),
    "true": measured(value=True),
    "not a number": measured(value=math.nan),
    "infinite": measured(value=[1.0, math.inf], at={"document": ["a", "b"]}),
    "out of range": measured(value=10**400),
    "too large": measured(value=-1e101),
    "place": measured(at=[1]),
    "coordinate": measured(value=1, at={"context": {"tokens": 1}}),
    "coordinates": measured(value=[1], at={"position": [[1]]}),
    "no axis": measured(value=[1, 2]),
    "no array": measured(value=1, at={"document": ["a"]}),
    "empty array": measured(value=[], at={"document": []}),
    "short array": measured(value=[1], at={"document": ["a", "b"]}),
    "ragged array": measured(value=[[1, 2], [3]], at={"layer": [1, 2], "head": [1, 2]}),
    "member": [*lines(), source(member=3)],
    "config": [*lines(), source(config=[])],
    "group": [*lines(), source(config={"optim": 3})],
    "model": [*lines(), source(config={"model": 3})],
    "mixer": [*lines(), source(config={"model": {"mixer": ["gru"]}})],
    "width": [*lines(), source(config={"model": {"dim": "128"}})],
    "layers": [*lines(), source(config={"model": {"layers": 10**400}})],
    "task": [*lines(), source(config={"task": ["text"]})],
    "revision": [*lines(), source(provenance={"revision": 7})],
    "command": [*lines(), source(provenance={"command": [1]})],
    "devices": [*lines(), source(provenance={"devices": {"kind": "cpu"}})],
    "number": [*lines(), "7"],
    "about": lines(about=[3]),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_is_told_in_one_line(tmp_path, kind):
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(DAMAGED[kind]))
    with pytest.raises(UserError, match=str(path)) as error:
        read(path)
    assert "measure again" in str(error.value) and str(error.value).isprintable()


def test_the_damaged_line_is_named(tmp_path):
    (tmp_path / "r.jsonl").write_text("\n".join(measured(value=1)))
    assert read(tmp_path / "r.jsonl").results[0].records[0].value == 1
    (tmp_path / "r.jsonl").write_text("\n".join(measured(value=math.nan)))
    with pytest.raises(UserError, match=r"is damaged \(line 3 is neither a source nor a record\)"):
        read(tmp_path / "r.jsonl")


def test_an_array_has_the_shape_of_its_axes(tmp_path):
    at = {"layer": [1, 2], "context": 64, "head": ["a", "b", "c"]}
    found = Record("x", "y", [[1, 2.5, 3], [4, 5, 6]], at), Record("x", "y", at={"head": [1]})
    write(tmp_path / "r.jsonl", [Results(Source("a", provenance=dict(dirty=None)), found)])
    assert read(tmp_path / "r.jsonl").results[0].records == found


def test_other_files_are_told_in_one_line(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name, message in (("bytes", "no records"), (".", "no records"), ("none", "eval.py")):
        with pytest.raises(UserError, match=message):
            read(tmp_path / name)


def test_another_version_is_refused_with_both(tmp_path):
    (tmp_path / "r.jsonl").write_text("\n".join(lines(version=2)))
    with pytest.raises(UserError, match="version 2; this revision reads version 1"):
        read(tmp_path / "r.jsonl")


def changed(**changes):
    return dataclasses.replace(SOURCE, **changes)


def made(**changes):
    return changed(provenance=MADE | changes)


@pytest.mark.parametrize(
    "known, answered, is_fresh",
    [
        (SOURCE, True, True),
        (changed(member="other", seeds={}), True, True),
        (changed(config=SOURCE.config | {"log_every": 1}), True, True),
        (changed(config=SOURCE.config | {"trackers": ["wandb"]}), True, True),
        (changed(config=SOURCE.config | {"steps": 4}), False, False),
        (changed(step=2), False, False),
        (changed(split="validation"), False, False),
        (made(revision="4567def"), True, False),
        (made(versions={"jax": "0.11"}), True, False),
        (made(dirty=True), True, False),
        (changed(provenance={}), True, False),
    ],
)
def test_records_answer_and_are_fresh(known, answered, is_fresh):
    assert (answers(known, SOURCE), fresh(known, SOURCE)) == (answered, is_fresh)


@pytest.mark.parametrize("dirty", [True, None])
def test_nothing_is_fresh_in_a_tree_without_a_name(dirty):
    assert not fresh(made(dirty=dirty), made(dirty=dirty))


def test_sources_are_told_apart_by_what_decides_their_values():
    same = changed(facts={}, provenance=MADE | dict(command=["again"]))
    assert same.id == SOURCE.id
    for other in (
        changed(step=2),
        changed(member="b"),
        made(revision="4567def"),
        changed(seeds={}),
    ):
        assert other.id != SOURCE.id
    assert made(dirty=True).revision != SOURCE.revision == "0123abc"


def test_a_tag_is_of_one_place():
    assert tag(RECORDS[0]) == "quality/bits_per_byte"
    assert tag(RECORDS[1]) == "memory/state_bytes@4096"
    assert tag(RECORDS[4]) == "costs/longest_context@target=local"


def test_an_unknown_status_is_refused():
    with pytest.raises(UserError, match="did you mean 'failed'"):
        Record("quality", "bits_per_byte", status="fail")
