"""Long decoding: a constant state decodes all tokens, and a cache as far as its bytes allow; its
records say what they are.
"""

import pytest

from seqarch import records
from seqarch.config import Config, ModelConfig, to_dict
from studies import long_decode
from studies.decoding_page import decoding_page
from studies.long_decode import LAST, DecodingPoint, measure

CONFIG = Config(model=ModelConfig(layers=1, dim=8, mlp=8))


def test_constant_states_decode_every_token_with_one_state(monkeypatch):
    monkeypatch.setattr(long_decode, "POINTS", 4)
    points = list(measure(CONFIG, "gru", 400, 1))
    assert [point.tokens for point in points] == [100, 200, 300, 400]
    assert {point.state for point in points} == {8 * 4}
    assert all(point.seconds > 0 and point.resident > 1e6 for point in points)


def test_caches_double_while_their_bytes_are_allowed():
    slot = 2 * 8 * 4 + 4
    points = list(measure(CONFIG, "attention", 10_000, 8 * LAST * slot + 4))
    assert [point.tokens for point in points] == [4 * LAST, 8 * LAST]
    assert [point.state for point in points] == [slots * slot + 4 for slots in (4 * LAST, 8 * LAST)]


SMALL = ("--tokens=1000", "--config.model.dim=8", "--config.model.mlp=8")


def made(mixer, *points):
    return long_decode.results(to_dict(CONFIG), mixer, {}, points)


def test_points_come_back_from_their_records(tmp_path):
    points = [DecodingPoint(10, 20, 0.5, 100, 4), DecodingPoint(20, 20, 0.25, 120, 4)]
    records.write(tmp_path / records.NAME, [made("gru", *points), made("mamba", points[0])])
    assert long_decode.read(tmp_path / records.NAME) == {"gru": points, "mamba": points[:1]}


def test_tables_part_constant_states_from_caches():
    constant = [DecodingPoint(10, 20, 1e-6, 100, 4), DecodingPoint(20, 20, 3e-6, 120, 4)]
    growing = [DecodingPoint(8, 8, 5e-6, 90, 8), DecodingPoint(16, 16, 7e-6, 99, 16)]
    page = decoding_page([made("gru", *constant), made("attention", *growing)], "Long")
    first, second = page.tables
    assert [row.cells for row in first.rows] == [("gru", 20, 4, 100, 120, 1, 2, 3)]
    assert [row.cells for row in second.rows] == [
        ("attention", 8, 8, 90, 5),
        ("attention", 16, 16, 99, 7),
    ]
    assert len(page.figures) == 1


def test_program_writes_records_and_a_figure_and_keeps_other_mixers(tmp_path, run_here):
    old = DecodingPoint(1, 1, 1.0, 1, 1)
    records.write(tmp_path / records.NAME, [made("mamba", old), made("gru", old)])
    done = run_here("scripts/long_decode.py", *SMALL, f"--out={tmp_path}", "--mixers=gru")
    assert done.returncode == 0, done.stderr
    points = long_decode.read(tmp_path / records.NAME)
    assert points["gru"][-1].tokens == 1000 and points["mamba"] == [old]
    (gru,) = (
        each
        for each in records.read(tmp_path / records.NAME).results
        if each.source.member == "gru"
    )
    assert {"revision", "versions", "devices", "command"} <= set(gru.source.provenance)
    assert gru.source.config["model"]["mixer"] == "gru" and gru.source.kind == "program"
    assert (tmp_path / "figures/long-decode.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    "mixer, old, said",
    [("grus", None, "did you mean 'gru'"), ("gru", '{"points": 1}', "holds no records")],
)
def test_mistakes_are_a_line(tmp_path, run_here, mixer, old, said):
    if old:
        (tmp_path / records.NAME).write_text(old)
    done = run_here("scripts/long_decode.py", *SMALL, f"--out={tmp_path}", f"--mixers={mixer}")
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not old or (tmp_path / records.NAME).read_text() == old
