"""The benchmark: all forms are in it, times are medians of interleaved runs, its records say where
they come from.
"""

import dataclasses
from pathlib import Path

import jax
import pytest

from benchmarks import bench, cases, families, measure, ops, peers, programs, ratios, tables
from benchmarks.cases import Case, Ready, Sizes
from benchmarks.measure import BENCH, CaseTiming, Limits
from seqarch import records
from seqarch.errors import UserError
from seqarch.mixers import MIXERS
from seqarch.records import Results

TINY = Sizes(
    dim=8, heads=2, state_dim=2, shapes=((2, 6), (1, 8)), long=16, far=12, contexts=(40, 48),
    caches=((40, 40), (40, 64), (48, 64)), prompts=(8, 16), depths=(3, 6), train=(1, 8),
)  # fmt: skip
QUICK = Limits(rounds=(2, 3), seconds=0.0)


@pytest.fixture(scope="module")
def results() -> Results:
    with pytest.MonkeyPatch.context() as patch:
        generation = programs._generation_cases
        patch.setitem(
            programs.GROUPS, "generation", lambda sizes: (cases[2:4] for cases in generation(sizes))
        )
        one = dataclasses.replace(TINY, shapes=TINY.shapes[-1:])
        *_, found = bench.run(["attention", "gru", "generation"], one, QUICK, say=lambda line: None)
    return found


def test_every_form_of_every_op_and_mixer_is_measured_at_every_shape():
    shapes = [f"B{B} T{T}" for B, T in TINY.shapes]
    both = ("forward", "train")
    for name, op in ops.OPS.items():
        found = {case[1:4] for together in programs.GROUPS[name](TINY) for case in together}
        assert {
            (form, shape, pass_) for form in op.forms for shape in shapes for pass_ in both
        } <= found
    found = {case[1:4] for together in programs.GROUPS["mixers"](TINY) for case in together}
    forms = {label for name in MIXERS for label in cases.labelled_forms(name)} | {cases.UNSCANNED}
    assert found == {(form, shape, pass_) for form in forms for shape in shapes for pass_ in both}
    for group in ("families", "train_step", "decoding", "generation"):
        assert {case.form for together in programs.GROUPS[group](TINY) for case in together} == set(
            MIXERS
        )


@pytest.mark.slow
def test_records_say_what_was_measured_and_where(results, tmp_path):
    records.write(tmp_path / "bench.jsonl", [results], dict(kind="benchmark"))
    (found,) = records.read(tmp_path / "bench.jsonl").results
    assert {"revision", "versions", "devices", "host", "command"} <= set(found.source.provenance)
    assert {"sizes", "limits", "seconds"} <= set(found.source.facts[BENCH])
    for record in found.records:
        assert record.status == "ok" and record.value >= 0
    timed = found.all(BENCH, "seconds")
    assert {record.at["group"] for record in timed} == {"attention", "gru"}
    for record in timed:
        low, high = (
            found.value(BENCH, f"{name}_seconds", **record.at) for name in ("fastest", "slowest")
        )
        assert 0 < low <= record.value <= high and record.n == 2
    planned = [r for r in found.all(BENCH, "total_bytes") if r.at["pass"] == "plan"]
    assert planned and all(record.value > 0 for record in planned)


@pytest.mark.slow
def test_ratios_are_of_what_was_measured_and_are_shown(results):
    def seconds(form):
        at = {"group": "gru", "form": form, "shape": "B1 T8", "pass": "train"}
        return results.value(BENCH, "seconds", **at)

    found = ratios.ratios(results)
    (ratio,) = [each for each in found if each.name.startswith("gru, train")]
    auto = ops.OPS["gru"].forms.auto(jax.default_backend())
    assert ratio.value == seconds(auto) / seconds("flax nnx.RNN(GRUCell)")
    assert ratio.met == (ratio.value <= 0.8)
    assert not [r for r in found if "selective_scan" in r.name or "decoding" in r.name]
    shown = {row.cells[0] for row in tables.bench_page(results).tables[0].rows}
    assert shown == {each.name for each in found}


def _case(form: str, log: list, temporaries: int = 0) -> Case:
    return Case(
        "group",
        form,
        "shape",
        "forward",
        lambda: Ready(log.append, lambda: form, temporaries),
        calls=2,
    )


def test_cases_take_turns_and_medians_are_of_a_unit_of_work(monkeypatch):
    log = []
    seconds = iter([0.1, 0.1, 6.0, 1.0, 2.0, 1.0, 10.0, 1.0])
    timed = measure.run_seconds
    monkeypatch.setattr(measure, "run_seconds", lambda *case: timed(*case) * 0 + next(seconds))
    one, two = measure.measure([_case("one", log), _case("two", log)], Limits(rounds=(3, 3)))
    assert log == ["one", "two"] * 4  # the first ones warm up
    assert (one.seconds, one.low, one.high, two.seconds) == (3.0, 1.0, 5.0, 0.5)


def test_what_is_too_large_or_too_slow_is_skipped_and_said_so(monkeypatch):
    log = []
    large, slow = _case("large", log, temporaries=7_000_000_000), _case("slow", log)
    monkeypatch.setattr(measure, "run_seconds", lambda *case: 50.0)
    large, slow = measure.measure([large, slow], Limits())
    assert (large.skipped, slow.skipped) == ("temporaries of 7.0 GB", "one run takes 50 s")
    assert large.seconds is slow.seconds is None and log == []


def test_a_form_that_the_compiler_refuses_is_skipped_and_the_rest_is_measured(monkeypatch):
    def refused():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: too large\nmore of it")

    log = []
    monkeypatch.setattr(measure, "run_seconds", lambda *case: 0.1)
    large, small = measure.measure(
        [_case("large", log)._replace(start=refused), _case("small", log)], Limits()
    )
    assert large.skipped == "RESOURCE_EXHAUSTED: too large" and small.seconds == 0.05


def test_unknown_group_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="attention"):
        next(bench.run(["atention"]))


@pytest.mark.slow
def test_a_list_is_measured_in_a_process_of_its_own(monkeypatch):
    """What this process has in memory and its threads change no time there."""
    monkeypatch.setattr(measure, "run_seconds", None)
    B, T = TINY.shapes[1]
    found = bench.measure_apart(bench.ListedCases("linear_scan", 1, TINY, QUICK))
    assert {each.shape for each in found} == {f"B{B} T{T}"}
    assert all(each.seconds > 0 and each.rounds >= 2 for each in found)


def _without(monkeypatch, absent: set[str]) -> None:
    """The machine of somebody who has not installed `absent`, and has the rest."""
    monkeypatch.setattr(
        peers.importlib.util, "find_spec", lambda name: None if name in absent else object()
    )


@pytest.mark.slow
def test_peers_that_are_absent_are_told_and_the_rest_is_measured(monkeypatch):
    said, measured = [], []
    monkeypatch.setattr(
        bench,
        "measure",
        lambda together, limits: measured.extend(case[:4] for case in together) or [],
    )
    monkeypatch.setattr(bench, "versions", dict)
    monkeypatch.setattr(
        bench, "side_by_side", lambda jobs, work, _, ended: ended("", work(*jobs.values()), 0)
    )
    _without(monkeypatch, set(peers.PACKAGES))
    list(bench.run(["gru"], TINY, QUICK, said.append, peers=True))
    assert said[0].startswith(
        "not installed: torch, transformers, mambapy, fla-core, einops; pip install -r "
        "requirements-peers.txt"
    )
    assert {group for group, *_ in measured} == {"gru"}
    with pytest.raises(UserError, match="requirements-peers.txt"):
        next(bench.run(["peers"], TINY, QUICK, said.append))

    _without(monkeypatch, {"mambapy", "fla"})
    said.clear(), measured.clear()
    list(bench.run(["peers"], TINY, QUICK, said.append))
    assert said[0].endswith("to time fla's reference; transformers MambaMixer, mambapy")
    names = {
        "gru: torch.nn.GRU",
        "attention: torch scaled_dot_product_attention",
        "mamba: transformers MambaMixer",
    }
    forms = names | {"gru: ours", "attention: ours", "mamba: ours"}
    shapes = [f"B{B} T{T}" for B, T in TINY.shapes]
    assert set(measured) == {
        ("peers", form, shape, pass_)
        for form in forms
        for shape in shapes
        for pass_ in ("forward", "train")
    }


def test_decays_are_held_against_none_and_windows_against_full_attention(results):
    def timing(group, form, shape, seconds):
        return CaseTiming(group, form, shape, "train", seconds, cpu_seconds=2 * seconds**2)

    timings = (
        timing("families", "linear_attention", "B1 T8", 1.0),
        timing("families", "gla", "B1 T8", 1.5),
        timing("decays", "no decay", "B1 T8", 1.0),
        timing("decays", "decay per head", "B1 T8", 1.5),
        timing("decays", "delta rule", "B1 T8", 4.5),
        timing("seen", "full", "B1 T12", 9.0),
        timing("seen", "window 256", "B1 T12", 1.0),
    )
    measured = tuple(record for each in timings for record in each.records())
    found = {each.name: each for each in ratios.ratios(results._replace(records=measured))}
    gla = found["mixers, train, B1 T8: gla / linear_attention, seconds"]
    assert (gla.value, gla.most) == (1.5, None)
    head, delta = (
        found[f"linear attention, train, B1 T8: {name} / no decay, seconds"]
        for name in ("decay per head", "delta rule")
    )
    assert (head.value, head.met, delta.value, delta.met) == (1.5, True, 4.5, False)
    work = found["linear attention, train, B1 T8: delta rule / no decay, CPU seconds"]
    assert (work.value, work.most) == (4.5**2, None)
    window = found["attention, train, B1 T12: full / window 256, seconds"]
    assert (window.value, window.met) == (9.0, True)


def test_pairs_of_blocks_that_are_not_empty_are_counted():
    full, window = (families.scored_pairs(name, 16384) for name in ("full", "window 256"))
    assert full == 512**2 * 32 * 33 / 2 and window == 256**2 * (2 * 64 - 1)


def test_peers_have_ratios_at_every_shape_and_pass(results):
    def timing(form, seconds):
        return CaseTiming("peers", form, "B1 T8", "train", seconds=seconds)

    timings = timing("gru: ours", 1.0), timing("gru: torch.nn.GRU", 4.0), timing("gru: other", None)
    measured = tuple(record for each in timings for record in each.records())
    (ratio,) = ratios.ratios(results._replace(records=measured))
    name = "gru, train, B1 T8: ours / torch.nn.GRU, seconds"
    assert (ratio.name, ratio.value) == (name, 0.25)


def test_requirements_name_what_peers_need():
    lines = (Path(__file__).parents[2] / "requirements-peers.txt").read_text().splitlines()
    assert {line.split("==")[0] for line in lines if not line.startswith("#")} == set(
        peers.PACKAGES.values()
    )


def test_tables_of_an_earlier_run_are_shown(results, tmp_path, run_here):
    file = tmp_path / "bench.jsonl"
    records.write(file, [results], dict(kind="benchmark"))
    done = run_here("scripts/bench.py", f"--show={file}")
    assert done.returncode == 0 and "## Ratios" in done.stdout
    records.write(file, [results], dict(kind="costs"))
    done = run_here("scripts/bench.py", f"--show={file}")
    assert done.returncode == 2 and "is no benchmark" in done.stderr
    done = run_here("scripts/tune.py", "--target=tpu-v5e", f"--newton={file}")
    assert done.returncode == 2 and "is no benchmark" in done.stderr


def test_records_that_cannot_be_written_are_refused_before_anything_is_measured(tmp_path, run_here):
    (tmp_path / "file").write_text("no directory")
    done = run_here("scripts/bench.py", f"--out={tmp_path / 'file' / 'bench.jsonl'}")
    assert done.returncode == 2 and "give a directory that can be written" in done.stderr
