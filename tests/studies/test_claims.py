"""Verdicts of claims follow from numbers, which are made up here; programs that run are small; the
page shows its record.
"""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from seqarch.config import Config, ModelConfig, OptimConfig
from seqarch.costs.memory import Measurement
from seqarch.errors import UserError
from seqarch.flops import loop_turns
from seqarch.model import LanguageModel
from seqarch.records import Record, Results, Source
from seqarch.report.members import Comparison, Member, write
from seqarch.stats.fits import growth as fits
from studies.claims import approximation, growth, hardware, isolated, matrix, speed, states
from studies.claims.base import Claim, Finding, Setup, Verdict, verdict
from studies.claims.page import CLAIMS, page
from studies.claims.swap import swapped

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


def test_verdicts_follow_from_the_parts():
    assert verdict([True, True]) is Verdict.CONFIRMED and verdict([False]) is Verdict.REFUTED
    assert verdict([True, False]) is Verdict.QUALIFIED
    with pytest.raises(UserError):
        verdict([])


def test_what_cannot_be_measured_is_said_and_the_rest_goes_on(setup):
    def find(setup):
        raise UserError("no compiler")

    assert Claim("", "", find).judge(setup) == Finding(Verdict.OPEN, "-", "no compiler")
    assert hardware.CLAIMS[0].judge(setup._replace(targets=["tpu-v5e"])).verdict is Verdict.OPEN


def test_growth(setup):
    quadratic = growth.quadratic(setup)
    assert quadratic.verdict is Verdict.QUALIFIED
    assert quadratic.number.startswith("exponent 1.00 ± 0.00 in decoding, 1.00")
    cell = quadratic.evidence["materialised, a prompt read at once"]["exponent"]
    assert cell.unit == "exponent" and cell.value[0] == pytest.approx(2)
    assert growth.exponential(setup).verdict is Verdict.REFUTED
    assert growth.cache_reads(setup).verdict is Verdict.QUALIFIED
    assert growth.constant(setup).verdict is Verdict.QUALIFIED


def test_another_measurement_has_another_verdict(setup):
    assert matrix.never_built(setup).verdict is Verdict.REFUTED
    squared = setup._replace(cache=FakeCache(blockwise=2))
    assert matrix.never_built(squared).verdict is Verdict.CONFIRMED


def test_what_was_not_measured_is_no_evidence(setup):
    few = setup._replace(lengths=(1024, 4096))
    for claim in growth.CLAIMS:
        found = claim.judge(few)
        assert found.verdict is Verdict.OPEN and "give more --lengths" in found.why


def test_matrix(setup):
    found = matrix.size_of_matrix(setup)
    assert found.verdict is Verdict.QUALIFIED  # 10^11 bytes, and 10^13 at a million tokens
    one, eight = (
        found.evidence[f"{heads}, float32, local"]["bytes a score"].value
        for heads in ("one head", "eight heads")
    )
    assert (one, eight) == pytest.approx((10, 1.25))  # the double's do not grow with heads


def test_states(setup):
    assert states.one_vector(setup).verdict is Verdict.QUALIFIED
    assert states.one_vector(setup).evidence["gru, 1M"][states.VECTORS].value == 1
    assert states.sparse(setup).verdict is Verdict.QUALIFIED


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
    write(tmp_path / "results/records.jsonl", Comparison("", "", "", members))
    found = states.hybrids(setup._replace(docs=tmp_path))
    assert (found.evidence["bits per byte"]["between"] != "yes") == alike
    assert found.verdict is Verdict.CONFIRMED
    assert f"{4 - alike} of the {4 - alike}" in found.number


def test_a_million_tokens_are_feasible_where_their_cache_fits(setup):
    targets = ["local", "gpu-h100"]
    found = hardware.million_tokens(setup._replace(targets=[*targets, "tpu-v5e"]))
    assert found.verdict is Verdict.CONFIRMED
    assert "0 of the 2 targets that could be measured hold" in found.number
    assert found.evidence["mamba, tpu-v5e"] == {
        "chips": "not measured",
        "each device": "no compiler",
        "tokens/s at most": None,
    }
    assert found.evidence["attention grouped, gpu-h100"]["chips"] == "more than 8"
    found = hardware.million_tokens(setup._replace(targets=targets, cache=FakeCache(memory=2**30)))
    assert found.verdict is Verdict.REFUTED and "2 of the 2 targets" in found.number
    rates = [
        found.evidence[f"attention grouped, {target}"]["tokens/s at most"] for target in targets
    ]
    assert rates[0] is None and rates[1].value > 0  # no data sheet tells of the local device


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
    found = speed.slow_decoding(setup)
    assert found.verdict is expected
    assert "grows 16.0 times with attention, 1.0 with gru" in found.why


def test_what_is_linear_in_the_state_trains_in_fewer_turns_than_tokens(setup, monkeypatch):
    monkeypatch.setattr(Setup, "run_isolated", lambda self, function, *args: 1000.0)
    monkeypatch.setattr(speed, "LENGTH", 256)
    found = speed.parallel_training(setup)
    turns = {name: cells[speed.TURNS].value for name, cells in found.evidence.items()}
    assert found.verdict is Verdict.QUALIFIED
    assert turns.pop("gru") >= 2 * 256 and max(turns.values()) < 64


@pytest.mark.parametrize("exchanged, expected", [(3.72, Verdict.CONFIRMED), (4.1, Verdict.REFUTED)])
def test_weights_carry_over_where_the_bits_stay(setup, monkeypatch, exchanged, expected):
    def bits(config, run, others):
        return {config.model.mixer: 3.7} | dict.fromkeys(others, exchanged)

    monkeypatch.setattr(Setup, "run_isolated", lambda self, function, *args: function(*args))
    monkeypatch.setattr(isolated, "bits", bits)
    assert approximation.swap(setup).verdict is expected


def test_training_is_of_a_row_for_each_device(setup):
    asked, cache = [], FakeCache()
    cache.measure_all = lambda specs: asked.extend(specs) or FakeCache().measure_all(specs)
    for phase in ("train", "decode"):
        setup._replace(cache=cache).curve(MEMBERS["gru"], phase, "tpu-v7", (1024,))
    assert [spec.batch for spec in asked] == [2, 1]


def test_crossing_is_where_the_cache_is_as_large():
    cache, constant = MEMBERS["attention multi-head"], MEMBERS["mamba"]
    at = states.crossing(constant, cache)
    below, above = (states.state_bytes(cache, int(at) + n) for n in (0, 1))
    assert below <= states.state_bytes(constant, 1) <= above


def test_fits_tell_a_power_from_an_exponential():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    power, exponential = fits(x, x**2), fits(x, 2**x)
    assert power.power < 1e-9 < power.exponential
    assert exponential.exponential < 1e-9 < exponential.power


def test_turns_multiply_inside_and_add_outside():
    inner = lambda x: jax.lax.fori_loop(0, 3, lambda i, x: x * 2.0, x)

    def run(x):
        x, _ = jax.lax.scan(lambda x, _: (inner(inner(x)), None), x, None, length=5)
        return inner(x) + 1

    assert loop_turns(run, 1.0) == 5 * (3 + 3) + 3


def test_swapped_parameters_are_read_by_the_other_mixer():
    of = lambda mixer: ModelConfig(mixer, layers=2, dim=8, mlp=8)
    softmax = LanguageModel(of("attention(rope=None)"), rngs=nnx.Rngs(0))
    linear = swapped(softmax, of("linear_attention"))
    again = swapped(linear, of("attention(rope=None)"))
    tokens = np.arange(6)[None]
    assert np.array_equal(softmax(tokens), again(tokens))
    assert not np.allclose(softmax(tokens), linear(tokens))
    with pytest.raises(UserError, match="other parameters"):
        swapped(softmax, of("gru"))


def test_rates_of_what_really_runs():
    model = ModelConfig("mamba,attention", layers=2, dim=8, mlp=8)
    config = Config(length=64, model=model)
    assert isolated.decoded_per_second(config, 64, 3) > 0
    assert isolated.trained_per_second(config, 64) > 0
    assert isolated.sequences(config, 64, 1 << 40, 7) == 7
    assert isolated.sequences(config, 64, 1, 7) == 1


def test_bits_of_a_run_under_another_mixer(tmp_path):
    config = Config(
        steps=1,
        batch=2,
        length=32,
        model=ModelConfig("attention(rope=None)", layers=1, dim=8, mlp=8),
        optim=OptimConfig(),
    )
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, limit=64, batch=2))
    scores = isolated.bits(config, str(tmp_path / "run"), [approximation.LINEAR])
    assert list(scores) == [config.model.mixer, approximation.LINEAR]
    assert all(7 < bits < 9 for bits in scores.values())


def test_the_committed_record_is_of_these_claims():
    """tests/docs renders its page."""
    record = json.loads((ROOT / "docs/claims.json").read_text())
    said = [(each["said"], each["test"]) for each in record["claims"]]
    assert said == [(claim.said, claim.test) for claim in CLAIMS]
    verdicts = {each["verdict"] for each in record["claims"]}
    assert Verdict.OPEN not in verdicts and verdicts <= set(Verdict)


def test_page_shows_each_finding_and_escapes_it():
    finding = Finding(Verdict.REFUTED, "2 | 3", "<b>", {"one|two": {"a": "1", "b": "2"}, "x": {}})
    claims = [dict(said="It is *so*.", test="$x$", **finding._asdict())]
    about = dict(command="c", revision="0123456789abcdef", versions={"jax": "1"}, cpus=2)
    text = page(dict(about=about | dict(targets=["local"]), claims=claims))
    assert "0123456789" in text and "0123456789abcdef" not in text
    assert "<b>" not in text and "$x$" not in text and "*so*" not in text.replace("\\*", "")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [4] * 7


def test_page_writes_quantities_and_keeps_texts():
    row = {"exponent": [[1.0, 0.02], "exponent"], "bytes": [1536, "bytes"], "rate": None}
    other = {"exponent": "2.00 ± 0.00", "bytes": [2048, "bytes"], "rate": [1234.5, "rate"]}
    finding = Finding(Verdict.OPEN, "-", "", {"one": row, "other": other})
    claim = json.loads(json.dumps(dict(said="s", test="t", **finding._asdict())))
    about = dict(command="c", revision="r", versions={}, cpus=2, targets=["local"])
    rows = [
        line for line in page(dict(about=about, claims=[claim])).splitlines() if "1.5 KiB" in line
    ]
    assert [cell.strip() for cell in rows[0].split("|")[1:-1]] == [
        "one",
        "1.00 ± 0.02",
        "1.5 KiB",
        "–",
    ]
