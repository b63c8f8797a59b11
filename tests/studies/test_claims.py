"""Verdicts of claims follow from their records alone, whose numbers are made up here."""

import dataclasses
from pathlib import Path

import pytest

from seqarch.config import Config, ModelConfig
from seqarch.costs.memory import Measurement
from seqarch.costs.spec import Failed
from seqarch.errors import UserError
from seqarch.records import Record, Results, Source, read, write
from seqarch.report.members import Comparison, Member
from seqarch.report.members import write as write_comparison
from studies.claims import growth, isolated, speed, states
from studies.claims.base import Claim, Finding, Verdict, verdict
from studies.claims.evidence import EVALUATOR, STATE, WORKING, record
from studies.claims.page import CLAIMS
from studies.claims.setup import Setup

ROOT = Path(__file__).parents[2]
PATTERNS = {
    "gru": "gru",
    "linear_attention": "linear_attention(heads=2)",
    "mamba": "mamba",
    "attention materialised": "attention(heads=2,method=materialised)",
    "attention multi-head": "attention(heads=2)",
    "attention grouped": "attention(heads=2,kv_heads=1)",
    "attention window 1024": "attention(heads=2,window=1024)",
    "hybrid": "mamba,attention(heads=2)",
}
MEMBERS = {
    name: Config(length=64, model=ModelConfig(mixer, layers=2, dim=8, mlp=8))
    for name, mixer in PATTERNS.items()
}
LENGTHS = (1024, 4096, 16384, 65536)


class FakeCache:
    """Gives made-up sizes: 10 bytes for a score of the matrix, 100 for a token of a cache."""

    def __init__(self, blockwise=1, memory=2**20):
        self.blockwise, self.memory = blockwise, memory

    def measure(self, spec):
        mixer, n = spec.config.model.mixer, spec.length
        if spec.target.startswith("tpu-v5e"):
            raise UserError("no compiler")
        power = 2 if "materialised" in mixer else self.blockwise
        segment = min(spec.config.length, n)
        working = {"train": 10 * n**power, "prefill": 10 * segment**power, "decode": 10}[spec.phase]
        slots = n if attends(mixer) and "window" not in mixer else 1
        state = 0 if spec.phase == "train" else 100 * slots
        total = 1 + state + working
        return Measurement(1, 0, 0, state, 0, 0, 0, 0, total, "made up", self.memory, 1.0)

    def measure_all(self, specs):
        return [self.measure(spec) for spec in specs]


def attends(mixer):
    """Whether a layer of the pattern is softmax attention."""
    return "attention(" in mixer and "linear" not in mixer


COMMITTED = read(ROOT / "docs/claims/records.jsonl").results


@pytest.fixture
def setup(tmp_path):
    return Setup(
        cache=FakeCache(),
        targets=["local", "tpu-v5e"],
        small=MEMBERS,
        large=MEMBERS,
        trained=MEMBERS["gru"],
        lengths=LENGTHS,
        docs=ROOT / "docs",
        workdir=tmp_path,
        platforms="cpu",
        say=lambda line: None,
    )


BY_NAME = {claim.name: claim for claim in CLAIMS}


def measured(name, setup):
    """The records of a claim."""
    return Results(Source(name), tuple(BY_NAME[name].records(setup)))


def finding(name, setup):
    """What the records of a claim say, as they are when they were written and read again."""
    path = setup.workdir / "records.jsonl"
    write(path, [measured(name, setup)])
    return BY_NAME[name].finding(read(path).results[0])


def altered(found, metric, factor, **at):
    """The records with the values of a metric, of places that `at` is part of, times `factor`."""

    def alter(each):
        chosen = each.metric == metric and at.items() <= each.at.items()
        return dataclasses.replace(each, value=each.value * factor) if chosen else each

    return found._replace(records=tuple(map(alter, found.records)))


def cells(found, row):
    """The cells of a row, by the title of their column."""
    titles = [column.title for column in found.columns]
    return dict(zip(titles, found.rows[row], strict=True))


def test_verdicts_follow_from_the_parts():
    assert verdict([True, True]) is Verdict.CONFIRMED and verdict([False]) is Verdict.REFUTED
    assert verdict([True, False]) is Verdict.QUALIFIED
    with pytest.raises(UserError):
        verdict([])


def test_what_cannot_be_measured_is_said_and_the_rest_is_kept(setup):
    def measure(setup):
        yield record("rate", 1.0)
        raise UserError("no compiler")

    claim = Claim("", "", "", measure, lambda found: pytest.fail("is judged"))
    found = Results(Source(""), tuple(claim.records(setup)))
    assert found.value(EVALUATOR, "rate") == 1.0
    assert claim.finding(found) == Finding(Verdict.OPEN, "", "no compiler")
    assert finding("a million tokens", setup._replace(targets=["tpu-v5e"])).verdict is Verdict.OPEN


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_without_records_every_claim_is_open(claim):
    assert claim.finding(Results(Source(claim.name), ())).verdict is Verdict.OPEN


def without(found, index):
    return found._replace(records=found.records[:index] + found.records[index + 1 :])


def damaged(found, index):
    """Yields the records with one that lacks a coordinate, or that is 0."""
    record = found.records[index]
    changed = [dict(value=0)]
    for name in record.at:
        changed.append(dict(at={other: record.at[other] for other in record.at if other != name}))
    for each in changed:
        records = [*found.records]
        records[index] = dataclasses.replace(record, **each)
        yield found._replace(records=tuple(records))


@pytest.mark.parametrize("found", COMMITTED, ids=lambda found: found.source.member)
def test_any_record_may_be_missing_or_damaged(found):
    judge = BY_NAME[found.source.member].finding
    for index in range(len(found.records)):
        for each in (without(found, index), *damaged(found, index)):
            assert isinstance(judge(each), Finding)


def committed(name, *lacking):
    """The committed records of a claim, but for those that `at` of any of `lacking` is part of."""
    (found,) = (each for each in COMMITTED if each.source.member == name)
    kept = [
        record
        for record in found.records
        if not any(
            record.metric == metric and at.items() <= record.at.items() for metric, at in lacking
        )
    ]
    return BY_NAME[name].finding(found._replace(records=tuple(kept)))


def test_curves_are_compared_at_the_lengths_that_both_have():
    name, lengths = "growth of the cache", [1024, 4096, 16384, 65536, 262144, 2**20]
    whole = committed(name)
    lacking = [("read_bytes", {"context": n}) for n in lengths]
    found = committed(name, lacking[0])
    assert list(found.rows.items()) == list(whole.rows.items())[1:]
    assert (found.verdict, found.number) == (whole.verdict, whole.number)  # of the longest four
    other = [(STATE, {"context": n}) for n in lengths]
    few = committed(name, *lacking[:2], *other[2:4])
    assert few.verdict is Verdict.OPEN and "too few lengths" in few.why
    none = committed(name, *lacking[:3], *other[3:])
    assert none.verdict is Verdict.OPEN and "no length has all" in none.why


def test_a_cache_and_its_working_memory_are_added_where_both_were_measured():
    name = "memory of inference"
    at = dict(phase="prefill", model="attention multi-head", context=2**20)
    whole, found = committed(name), committed(name, (STATE, at))
    assert found.verdict is whole.verdict
    changed = {row for row in whole.rows if whole.rows[row] != found.rows[row]}
    assert changed == {"blockwise, a prompt read in segments"}


def test_one_length_of_resident_memory_is_no_growth():
    found = committed("constant memory", ("resident_bytes", dict(model="gru", context=10**4)))
    assert found.verdict is Verdict.OPEN and "gru was decoded to one length only" in found.why


@pytest.mark.parametrize(
    "name, metric, change, why",
    [
        ("growth of the cache", "read_bytes", dict(at={}), "it lacks context"),
        ("matrix in training", WORKING, dict(at={}), "it lacks target"),
        ("a million tokens", "total_bytes", dict(at={}), "it lacks model, target, chips"),
        ("constant memory", "resident_bytes", dict(value=0), "it is 0"),
        ("size of the matrix", WORKING, dict(value=-1), "it is -1"),
        ("hidden vectors", "vector_bytes", dict(value=[1]), r"it is [1]"),
    ],
)
def test_damage_is_the_reason_in_one_line(name, metric, change, why):
    (found,) = (each for each in COMMITTED if each.source.member == name)
    records = [
        dataclasses.replace(each, **change) if each.metric == metric else each
        for each in found.records
    ]
    judged = BY_NAME[name].finding(found._replace(records=tuple(records)))
    assert judged.verdict is Verdict.OPEN and why in judged.why and "damaged" in judged.why


def test_growth(setup):
    quadratic = finding("memory of inference", setup)
    assert quadratic.verdict is Verdict.QUALIFIED
    assert quadratic.number.startswith("exponent 1.00 ± 0.00 in decoding, 1.00")
    fit = cells(quadratic, "materialised, a prompt read at once")["exponent"]
    assert fit.b == pytest.approx(2)
    assert finding("exponential growth", setup).verdict is Verdict.REFUTED
    assert finding("growth of the cache", setup).verdict is Verdict.QUALIFIED
    assert finding("constant memory", setup).verdict is Verdict.QUALIFIED


def test_another_measurement_has_another_verdict(setup):
    assert finding("matrix in training", setup).verdict is Verdict.REFUTED
    squared = setup._replace(cache=FakeCache(blockwise=2))
    assert finding("matrix in training", squared).verdict is Verdict.CONFIRMED


@pytest.mark.parametrize(
    "name, metric, factor, at, expected",
    [
        ("constant memory", "resident_bytes", 2, dict(context=10**6), "refuted"),
        ("size of the matrix", WORKING, 0.1, dict(context=10**6, target="local"), "confirmed"),
        ("hidden vectors", "vector_bytes", 1000, {}, "confirmed"),
        ("sparse attention", STATE, 1e-3, dict(context=1024), "refuted"),
    ],
)
def test_another_record_has_another_verdict(setup, name, metric, factor, at, expected):
    found = measured(name, setup)
    assert BY_NAME[name].finding(found).verdict is Verdict.QUALIFIED
    assert BY_NAME[name].finding(altered(found, metric, factor, **at)).verdict == expected


def test_what_was_not_measured_is_no_evidence(setup):
    few = setup._replace(lengths=(1024, 4096))
    for claim in growth.CLAIMS:
        found = finding(claim.name, few)
        assert found.verdict is Verdict.OPEN and "give more --lengths" in found.why


def test_a_target_without_a_compiler_has_the_reason(setup):
    found = measured("matrix in training", setup)
    absent = [each for each in found.records if each.at["target"] == "tpu-v5e"]
    assert {(each.status, each.note) for each in absent} == {("not_run", "no compiler")}
    assert list(BY_NAME["matrix in training"].finding(found).rows) == [
        "materialised, local",
        "blockwise, local",
    ]


def test_matrix(setup):
    found = finding("size of the matrix", setup)
    assert found.verdict is Verdict.QUALIFIED  # 10^11 bytes, and 10^13 at a million tokens
    one, eight = (
        cells(found, f"{heads}, float32, local")["bytes a score"]
        for heads in ("one head", "eight heads")
    )
    assert (one, eight) == pytest.approx((10, 1.25))  # the double's do not grow with heads


def test_states(setup):
    found = finding("hidden vectors", setup)
    assert found.verdict is Verdict.QUALIFIED
    assert cells(found, "gru, 1M")["hidden vectors a layer"] == 1
    assert finding("sparse attention", setup).verdict is Verdict.QUALIFIED


def compared(name, bits, seeds):
    """A member with seeds, each with scores of two documents that lie around `bits`."""
    documents, at = {"document": ["x", "y"]}, {"context": 4096}
    runs = []
    for seed, off in enumerate(seeds):
        found = (
            Record("quality", "bits_per_byte", bits + off),
            Record("quality", "document_bits_per_byte", [bits + off, bits + off], documents),
            Record("quality", "document_bytes", [10, 10], documents),
            Record("speed", "decode_tokens_per_s", 100 * bits, at),
        )
        runs.append(Results(Source(name, seeds=dict(model=seed)), found))
    return Member(name, "run", tuple(runs))


@pytest.mark.parametrize("seeds, alike", [((0.2, -0.2), True), ((0.0, 0.001), False)])
def test_a_hybrid_that_is_not_told_apart_is_not_between(setup, tmp_path, seeds, alike):
    members = (
        compared("mamba", 2.6, (0, 0)),
        compared("hybrid", 2.7, seeds),
        compared("attention", 3.5, (0, 0)),
    )
    (tmp_path / "results").mkdir()
    write_comparison(tmp_path / "results/records.jsonl", Comparison("", "", "", members))
    found = finding("hybrids", setup._replace(docs=tmp_path))
    assert (cells(found, "bits per byte")["between"] != "yes") == alike
    assert found.verdict is Verdict.CONFIRMED
    assert f"{4 - alike} of the {4 - alike}" in found.number


def test_a_million_tokens_are_feasible_where_their_cache_fits(setup):
    targets, name = ["local", "gpu-h100"], "a million tokens"
    found = finding(name, setup._replace(targets=[*targets, "tpu-v5e"]))
    assert found.verdict is Verdict.CONFIRMED
    assert "0 of the 1 accelerators that could be compiled for hold" in found.number
    assert found.number.endswith("; the local device does not")
    assert found.rows["mamba, tpu-v5e"] == ("not measured", "no compiler", None)
    assert cells(found, "attention grouped, gpu-h100")["chips"] == "more than 8"
    found = finding(name, setup._replace(targets=targets, cache=FakeCache(memory=2**30)))
    assert found.verdict is Verdict.REFUTED and "1 of the 1 accelerators" in found.number
    assert found.number.endswith("; the local device does too")
    rates = [cells(found, f"attention grouped, {target}")["tokens/s at most"] for target in targets]
    assert rates[0] is None and rates[1] > 0  # no data sheet tells of the local device


def test_a_grid_that_fails_to_compile_leaves_the_larger_ones(setup):
    class Failing(FakeCache):
        def measure(self, spec):
            return Failed("crashed") if spec.target.endswith(":1") else super().measure(spec)

    given = setup._replace(targets=["gpu-h100"], cache=Failing(memory=2**30))
    assert cells(finding("a million tokens", given), "mamba, gpu-h100")["chips"] == "2"


@pytest.mark.parametrize(
    "recurrent, expected",
    [(50, Verdict.CONFIRMED), (500, Verdict.QUALIFIED), (5000, Verdict.REFUTED)],
)
def test_decoding_is_slower_where_its_rates_are(setup, monkeypatch, recurrent, expected):
    def rate(config, context, batch):
        return batch * (10**6 / context if attends(config.model.mixer) else recurrent)

    monkeypatch.setattr(Setup, "run_isolated", lambda self, function, *args: function(*args))
    monkeypatch.setattr(isolated, "decoded_per_second", rate)
    monkeypatch.setattr(isolated, "sequences", lambda *args: 2)
    found = finding("slow decoding", setup)
    assert found.verdict is expected
    assert "grows 16.0 times with attention, 1.0 with gru" in found.why


@pytest.mark.slow
def test_what_is_linear_in_the_state_trains_in_fewer_turns_than_tokens(setup, monkeypatch):
    monkeypatch.setattr(Setup, "run_isolated", lambda self, function, *args: 1000.0)
    monkeypatch.setattr(speed, "LENGTH", 256)
    found = finding("parallel training", setup)
    turns = {name: row[0] for name, row in found.rows.items()}
    assert found.verdict is Verdict.QUALIFIED
    assert turns.pop("gru") >= 2 * 256 and max(turns.values()) < 64


@pytest.mark.parametrize("exchanged, expected", [(3.72, Verdict.CONFIRMED), (4.1, Verdict.REFUTED)])
def test_weights_carry_over_where_the_bits_stay(setup, monkeypatch, exchanged, expected):
    def bits(config, run, others):
        return {config.model.mixer: 3.7} | dict.fromkeys(others, exchanged)

    monkeypatch.setattr(Setup, "run_isolated", lambda self, function, *args: function(*args))
    monkeypatch.setattr(isolated, "bits", bits)
    assert finding("linear for softmax", setup).verdict is expected


def test_training_is_of_a_row_for_each_device(setup):
    asked, cache = [], FakeCache()
    cache.measure_all = lambda specs: asked.extend(specs) or FakeCache().measure_all(specs)
    for phase in ("train", "decode"):
        list(setup._replace(cache=cache).curve(MEMBERS["gru"], phase, "tpu-v7", (1024,)))
    assert [spec.batch for spec in asked] == [2, 1]


def test_crossing_is_where_the_cache_is_as_large():
    cache, constant = MEMBERS["attention multi-head"].model, MEMBERS["mamba"].model
    at = states.crossing(constant, cache)
    below, above = (states.state_bytes(cache, int(at) + n) for n in (0, 1))
    assert below <= states.state_bytes(constant, 1) <= above
