"""Members at several sizes: the fits, the order of members, and what a config's sizes give."""

import dataclasses

import numpy as np
import pytest

from configs import compare
from seqarch.compare import spec
from seqarch.compare.sizes import sized_members
from seqarch.errors import UserError
from seqarch.model import count_parameters
from seqarch.records import Record, Results, Source
from seqarch.report.comparison import comparison_tables, significance
from seqarch.report.ladder import fit, ladder, ladder_figure, ladder_table
from seqarch.report.members import LADDER, PROBE, Comparison, Member, read, write
from seqarch.stats.exponents import power_law

SIZES = {"small": 1e4, "medium": 1e5, "large": 1e6}
WORKS = {"document": ["w", "x", "y", "z"]}


def rung(member, size, bits):
    """A member at a size with three seeds, whose bits per byte differ by up to 0.02."""
    results = []
    for seed in range(3):
        found = [bits + 0.01 * (seed - 1) * (-1) ** len(member) + 0.1 * work for work in range(4)]
        records = (
            Record("quality", "bits_per_byte", float(np.mean(found))),
            Record("quality", "document_bits_per_byte", found, WORKS),
            Record("quality", "document_bytes", [100] * 4, WORKS),
            Record("memory", "params", SIZES[size]),
            Record("flops", "train_per_token", 6 * SIZES[size]),
        )
        config = dict(batch=2, length=10, steps=5, model=dict(mixer=member))
        facts = {LADDER: dict(member=member, size=size)}
        ran = dict(config=config, step=config["steps"], seeds=dict(model=seed))
        source = Source(f"{member}-{size}", **ran, facts=facts)
        results.append(Results(source, records))
    return Member(f"{member}-{size}", "run", tuple(results))


def compared():
    bits = dict(gru=(3.0, 2.7, 2.5), mamba=(3.2, 2.7, 2.2))
    made = []
    for name, values in bits.items():
        made += [rung(name, size, each) for size, each in zip(SIZES, values, strict=True)]
    return Comparison("", "", "", tuple(made))


def test_power_law_is_exact_on_one_and_its_interval_covers_the_slope():
    x = np.array([1e4, 1e5, 1e6])
    assert power_law(x, 7 * x**-0.1) == pytest.approx((-0.1, 0), abs=1e-9)
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        noisy = np.repeat(x, 3) ** -0.1 * np.exp(0.01 * rng.normal(size=9))
        slope, half = power_law(np.repeat(x, 3), noisy)
        covered += abs(slope + 0.1) <= half
    assert 180 <= covered <= 198


def test_a_ladder_tells_fits_and_where_the_order_changes(tmp_path):
    found = compared()
    table = ladder_table(found, significance(found.models))
    assert [column.title for column in table.columns][1:4] == [f"bits/byte, {s}" for s in SIZES]
    gru, mamba = table.rows
    assert gru.cells[1:4] == pytest.approx((3.15, 2.85, 2.65))
    assert -0.06 < gru.cells[4].b < -0.03 and mamba.cells[4].b < gru.cells[4].b
    assert gru.cells[5] == pytest.approx(gru.cells[4])  # FLOPs are proportional to parameters
    assert "small: gru, mamba." in table.caption and "large: mamba, gru." in table.caption
    assert "told apart both times: gru and mamba." in table.caption
    assert "no pair is told apart" in ladder_table(found, {}).caption
    assert "mamba" in ladder_figure(found).svg
    write(tmp_path / "r.jsonl", found)
    assert ladder(read(tmp_path / "r.jsonl")) == ladder(found)


def test_a_comparison_of_one_size_has_no_ladder():
    found = compared()
    one = found._replace(members=(found.members[0], found.members[3]))
    assert ladder_table(one, {}) is None and ladder_figure(one) is None
    assert fit(ladder(one)["gru"], "params") is None


def test_the_summary_has_no_column_for_a_probe_which_has_no_sizes():
    record = Record("accuracy", "accuracy", 1.0)
    source = Source("gru", PROBE, dict(task="parity"), facts={PROBE: dict(title="tracking")})
    probed = compared()._replace(probes=(Results(source, (record,)),))
    summary = comparison_tables(probed)[0]
    assert "tracking" not in [each.title for each in summary.columns]
    assert "Probes" not in summary.caption


def test_a_ladder_of_accuracy_has_no_bits_per_byte():
    members = []
    for member in compared().members:
        bare = tuple(each._replace(records=each.records[3:]) for each in member.results)
        members.append(member._replace(results=bare))
    assert ladder_table(Comparison("", "", "", tuple(members)), {}) is None


def test_each_size_has_members_of_equal_parameters():
    asked = spec.read(compare.get_config("ladder_full").to_dict())
    few = dict(sizes=(asked.sizes[0], asked.sizes[-1]), members=asked.members[:2])
    asked = dataclasses.replace(asked, **few)
    found = sized_members(asked)
    counts = {name: count_parameters(config.model) for name, (config, _) in found.items()}
    assert len(counts) == 4 and found["gru-10M"][1] == ("gru", "10M")
    for name, count in counts.items():
        assert count == pytest.approx(10e6 if name.endswith("10M") else 300e6, rel=0.05)
    assert found["gru-10M"][0].steps < found["gru-300M"][0].steps


@pytest.mark.parametrize(
    "sizes, message",
    [
        (("a; model.dim=32", "a; model.dim=64"), "'a' twice"),
        (("model.dim=32",), "write 'small; model.dim=32'"),
        (("a; model.dmi=32",), "unknown config field 'model.dmi'"),
        (("a; model.mixer=gru",), "sets model.mixer, which comes from config.members"),
        (("a; seed.model=1",), "sets seed.model, which comes from config.seeds"),
        (("a; optim.lr=1",), "sets optim.lr, which comes from config.lrs"),
    ],
)
def test_wrong_sizes_are_told(sizes, message):
    given = compare.get_config("ladder").to_dict() | dict(sizes=sizes, members=("gru",))
    with pytest.raises(UserError, match=message):
        sized_members(spec.read(given))
