"""Members: what they show of several runs, and how finished runs become members."""

import dataclasses

import pytest

from seqarch import records
from seqarch.errors import UserError
from seqarch.records import Record, Results, Source
from seqarch.report import members
from seqarch.report.collect import collect
from seqarch.report.comparison import comparison_tables
from seqarch.report.members import Member, longest, places
from seqarch.report.notices import notices
from seqarch.report.render import cells
from seqarch.training import rundir
from tests.report.conftest import MADE, NOTICE, baseline_of, comparison_of, member_of, results_of


def of(records, seed=0):
    return Results(Source("a", seeds=dict(model=seed)), tuple(records))


def test_only_scores_are_means_over_seeds():
    metrics = ("quality", "bits_per_byte"), ("context", "targets"), ("memory", "params")
    runs = [of([Record(*each, value=10 + seed) for each in metrics], seed) for seed in range(3)]
    member = Member("a", "run", tuple(runs))
    assert [member.value(*each) for each in metrics] == [11.0, 11.0, 10]
    assert member.value("speed", "train_tokens_per_s") is None


def test_arrays_are_averaged_entry_by_entry_and_what_has_no_value_is_left_out():
    at = {"position": [1, 2]}
    curves = [[4.0, 3.0], [5.0, 3.0], None]
    runs = [of([Record("quality", "position_bits_per_byte", each, at)]) for each in curves]
    member = Member("a", "run", tuple(runs))
    assert member.value("quality", "position_bits_per_byte", **at) == [4.5, 3.0]
    absent = Member("a", "run", (of([Record("memory", "train_bytes", status="oom")]),))
    assert absent.value("memory", "train_bytes") is None


def test_places_are_those_of_all_members_and_rise():
    one, two = (
        Member(
            "a",
            "run",
            (of([Record("memory", "state_bytes", 1, {"context": at}) for at in each]),),
        )
        for each in ((1024, 64), (4096, 64))
    )
    found = places([one, two], "memory", "state_bytes")
    assert [at["context"] for at in found] == [64, 1024, 4096]
    assert longest([one, two], "memory", "state_bytes") == {"context": 4096}
    assert longest([one], "speed", "decode_tokens_per_s") is None


def test_a_comparison_is_read_as_it_was_written(tmp_path):
    search = Results(
        Source("gru", "search"), (Record("search", "bits_per_byte", 3.0, {"lr": 1.0}),)
    )
    comparison = comparison_of(member_of("gru")._replace(search=search), baseline_of("xz", 2.5))
    members.write(tmp_path / "r.jsonl", comparison)
    assert members.read(tmp_path / "r.jsonl") == comparison


@pytest.mark.parametrize("results", [[], [Results(Source("gru", "search"), ())]])
def test_a_file_without_runs_is_told(tmp_path, results):
    records.write(tmp_path / "r.jsonl", results)
    with pytest.raises(UserError, match="no results"):
        members.read(tmp_path / "r.jsonl")


@pytest.mark.parametrize("kind", ["capacity", "costs", "benchmark"])
def test_records_that_are_not_of_runs_are_told(tmp_path, kind):
    made = Results(Source("gru", "program"), (Record("costs", "total_bytes", 1),))
    records.write(tmp_path / "r.jsonl", [made], dict(kind=kind))
    with pytest.raises(UserError, match=f"r.jsonl has records of the kind '{kind}'"):
        collect([tmp_path / "r.jsonl"])


DAMAGED = {
    "array for a number": Record("quality", "bits_per_byte", [2.0], {"document": ["a"]}),
    "number for an array": Record("quality", "document_bits_per_byte", 2.0),
    "other axis": Record("quality", "position_bits_per_byte", [2.0], {"document": ["a"]}),
    "no context": Record("memory", "state_bytes", 1),
    "text for a context": Record("memory", "state_bytes", 1, {"context": "64"}),
    "array of contexts": Record("memory", "state_bytes", [1], {"context": [64]}),
    "another coordinate": Record("memory", "train_bytes", 1, {"context": 64, "batch": 2}),
    "search without a rate": Record("search", "bits_per_byte", 2.0),
    "search at a text": Record("search", "bits_per_byte", 2.0, {"lr": "0.1"}),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_not_measured_as_declared_is_damage(tmp_path, kind):
    records.write(tmp_path / "r.jsonl", [of([DAMAGED[kind]])])
    with pytest.raises(UserError, match=r"r\.jsonl is damaged .* measure again"):
        members.read(tmp_path / "r.jsonl")


def test_an_evaluator_that_is_not_known_is_read(tmp_path):
    mine = of([Record("mine", "x", [1], {"y": [2]}), Record("memory", "former", 1, {"y": 2})])
    records.write(tmp_path / "r.jsonl", [mine])
    assert members.read(tmp_path / "r.jsonl").results == [mine]


@pytest.fixture
def run(tmp_path):
    """Writes results as a run's directory; returns its path."""

    def write(directory, results, **changes):
        path = tmp_path / directory
        path.mkdir(parents=True)
        source = dataclasses.replace(results.source, member=path.name, **changes)
        records.write(path / records.NAME, [results._replace(source=source)])
        return path

    return write


def test_runs_that_differ_in_their_seeds_are_one_member(run):
    paths = [
        run("one", results_of("", seed=1, bits=2.0)),
        run("two", results_of("", seed=2, bits=3.0)),
        run("other", results_of("", "mamba")),
    ]
    found = collect(paths)
    assert [(each.name, len(each.results)) for each in found.members] == [("one", 2), ("other", 1)]
    assert found.members[0].value("quality", "bits_per_byte") == 2.5
    assert found.members[0].value("memory", "params") == 654321
    assert not found.notice and collect(paths, "mine").title == "mine"


def test_a_seed_is_no_name_and_a_name_is_of_one_member(run):
    paths = [
        run("a/seed-0", results_of("", "gru")),
        run("b/seed-0", results_of("", "mamba")),
        run("c/same", results_of("", "attention", mlp=1)),
        run("d/same", results_of("", "attention", mlp=2)),
    ]
    names = [each.name for each in collect(paths).members]
    assert names == ["gru", "mamba", "attention", "attention #2"]


def test_what_was_not_measured_alike_is_not_averaged(run):
    same = results_of("")
    paths = [
        run("test", same),
        run("validation", same, split="validation"),
        run("later", same, step=400),
        run("again", same, provenance=MADE | dict(revision="fedcba")),
    ]
    assert [len(each.results) for each in collect(paths).members] == [1, 1, 1, 1]


def test_runs_of_two_revisions_are_marked(run):
    paths = [
        run("one", results_of("", seed=1)),
        run("two", results_of("", seed=2), provenance=MADE | dict(revision="fedcba9876543210")),
    ]
    mixed = collect(paths)
    (line,) = notices(mixed)
    assert "2 revisions" in line and "r1 is 0123abcdef" in line and "r2 is fedcba9876" in line
    assert [member.mark for member in mixed.members] == ["[r1, r2]"]
    assert all(row[0] == "one [r1, r2]" for row in cells(comparison_tables(mixed)[0]))
    dirty = run("three", results_of("", "mamba"), provenance=MADE | dict(dirty=True))
    found = collect([paths[0], dirty])
    assert [member.mark for member in found.members] == ["[r1]", "[r2]"]
    assert not notices(collect(paths[:1])) and not collect(paths[:1]).members[0].mark


def test_a_comparison_keeps_its_names_searches_and_texts(run, tmp_path):
    search = Results(
        dataclasses.replace(results_of("best", seed=9).source, kind="search"),
        (Record("search", "bits_per_byte", 3.0, {"lr": 0.1}),),
    )
    both = tuple(results_of("best", seed=seed) for seed in (1, 2))
    given = comparison_of(Member("best", "run", both, search), baseline_of("xz", 2.5))
    (tmp_path / "compared").mkdir()
    members.write(tmp_path / "compared" / records.NAME, given)
    assert collect([tmp_path / "compared"]) == given
    assert collect([tmp_path / "compared" / records.NAME]) == given
    run_too = run("seed-1", both[0])
    found = collect([run_too, tmp_path / "compared", run("more", results_of("", "mamba"))])
    assert [each.name for each in found.members] == ["best", "xz", "more"]
    assert [len(each.results) for each in found.members] == [2, 1, 1]
    assert found.members[0].search == search and found.notice == NOTICE
    assert found.command == given.command and found.title != given.title


def test_a_run_that_was_not_measured_is_told(tmp_path):
    with pytest.raises(UserError, match="eval.py --workdir="):
        collect([tmp_path])
    with pytest.raises(UserError, match="there is no .*none; give directories of runs"):
        collect([tmp_path / "none"])
    for name in ("gru/seed-0", "mamba/seed-0"):  # as an interrupted comparison leaves them
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(UserError, match="it holds several runs, and the command that made them"):
        collect([tmp_path])
    with pytest.raises(UserError, match="give a run in it, such as .*/gru/seed-0"):
        rundir.stored_config(tmp_path)


@pytest.mark.slow
def test_the_program_renders_runs_without_measuring(run, tmp_path, run_here):
    one, two = run("one", results_of("", seed=1, bits=2.0)), run("two", results_of("", seed=2))
    out = f"--out={tmp_path / 'out'}"
    done = run_here("scripts/report.py", str(one), str(two), out)
    assert done.returncode == 0, done.stderr
    (member,) = members.read(tmp_path / "out" / records.NAME).members
    assert len(member.results) == 2 and (tmp_path / "out/report.html").exists()
    failed = run_here("scripts/report.py", str(tmp_path), str(two), out)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1
