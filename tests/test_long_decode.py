"""Long decoding: a constant state decodes all tokens, a cache as far as its bytes allow; the record says what it is."""

import json
import subprocess
import sys
from pathlib import Path

from seqarch.config import Config, ModelConfig
from seqarch.measure import long_decode
from seqarch.measure.long_decode import LAST, record

ROOT = Path(__file__).parents[1]
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


def test_program_writes_its_record_and_its_drawing(tmp_path):
    arguments = ["--mixers=gru", "--tokens=1000", "--config.model.dim=8", "--config.model.mlp=8", f"--out={tmp_path / 'long'}"]
    done = subprocess.run([sys.executable, "scripts/long_decode.py", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "long.json").read_text())
    assert made["points"]["gru"][-1]["tokens"] == 1000 and {"revision", "versions", "devices", "config", "command"} <= set(made)
    assert (tmp_path / "long.svg").read_text().startswith("<svg")


def test_an_unknown_mixer_is_a_line(tmp_path):
    command = [sys.executable, "scripts/long_decode.py", "--mixers=grus", f"--out={tmp_path / 'long'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "did you mean 'gru'" in done.stderr and "Traceback" not in done.stderr
