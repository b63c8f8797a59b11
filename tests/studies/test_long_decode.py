"""Long decoding: a constant state decodes all tokens, a cache as far as its bytes allow; the record
says what it is.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seqarch.config import Config, ModelConfig
from studies import long_decode
from studies.long_decode import LAST, record

ROOT = Path(__file__).parents[2]
CONFIG = Config(model=ModelConfig(layers=1, dim=8, mlp=8))


def test_constant_states_decode_every_token_with_one_state(monkeypatch):
    monkeypatch.setattr(long_decode, "POINTS", 4)
    points = list(record(CONFIG, "gru", 400, 1))
    assert [point.tokens for point in points] == [100, 200, 300, 400]
    assert {point.state for point in points} == {8 * 4}
    assert all(point.seconds > 0 and point.resident > 1e6 for point in points)


def test_caches_double_while_their_bytes_are_allowed():
    slot = 2 * 8 * 4 + 4
    points = list(record(CONFIG, "attention", 10_000, 8 * LAST * slot + 4))
    assert [point.tokens for point in points] == [4 * LAST, 8 * LAST]
    assert [point.state for point in points] == [slots * slot + 4 for slots in (4 * LAST, 8 * LAST)]


def program(tmp_path, *arguments):
    small = [
        "--tokens=1000",
        "--config.model.dim=8",
        "--config.model.mlp=8",
        f"--out={tmp_path / 'long'}",
    ]
    command = [sys.executable, "scripts/long_decode.py", *small, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_program_writes_its_record_and_its_drawing_and_keeps_other_mixers(tmp_path):
    kept = {"points": [dict(tokens=1, slots=1, seconds=1.0, resident=1, state=1)]}
    (tmp_path / "long.json").write_text(json.dumps({"mixers": {"mamba": kept, "gru": kept}}))
    done = program(tmp_path, "--mixers=gru")
    assert done.returncode == 0, done.stderr
    made = long_decode.read(tmp_path / "long.json")
    assert made["gru"]["points"][-1]["tokens"] == 1000 and made["mamba"] == kept
    assert {"revision", "versions", "devices", "config", "command"} <= set(made["gru"])
    assert (tmp_path / "long.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    "mixer, old, said",
    [("grus", None, "did you mean 'gru'"), ("gru", '{"points": 1}', "is no record")],
)
def test_mistakes_are_a_line(tmp_path, mixer, old, said):
    if old:
        (tmp_path / "long.json").write_text(old)
    done = program(tmp_path, f"--mixers={mixer}")
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not old or (tmp_path / "long.json").read_text() == old
