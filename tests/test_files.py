"""Files as they come from outside: JSON of any shape, paths of any kind, what killed processes
left.
"""

import os
import time
from pathlib import Path

import pytest

from seqarch import files, tuning
from seqarch.errors import UserError, printable

DEEP = "[" * 100_000 + "]" * 100_000
SHAPE = {"step": int, "name?": str | None, "arrays": {"*": [str]}, "whole?": bool | None}


@pytest.mark.parametrize("text", ["", "{", "\x00", DEEP, "[" * 65 + "]" * 65, b"\xff"])
def test_what_is_no_json_or_too_deep_is_a_value_error(text):
    with pytest.raises(ValueError):
        files.parse_json(text)


def test_json_comes_back(tmp_path):
    value = {"a": [1, {"b": None}], "\udcff": "\u00e9"}
    files.write_json(tmp_path / "x", value)
    assert files.read_json(tmp_path / "x") == value
    assert files.parse_json("[" * 63 + "]" * 63)


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"step": 1, "arrays": {}}, True),
        ({"step": 1, "arrays": {"w": ["a", "b"]}, "name": None, "more": 1}, True),
        ({"step": True, "arrays": {}}, False),
        ({"step": 1.0, "arrays": {}}, False),
        ({"step": 1}, False),
        ({"step": 1, "arrays": {"w": "ab"}}, False),
        ({"step": 1, "arrays": {"w": [1]}}, False),
        ({"step": 1, "arrays": {}, "name": 3}, False),
        ({"step": 1, "arrays": {}, "whole": True}, True),
        ({"step": 1, "arrays": {}, "whole": 1}, False),
        ([], False),
        (None, False),
    ],
)
def test_a_shape_says_what_json_must_be(value, fits):
    assert files.has_shape(value, SHAPE) == fits


@pytest.mark.parametrize("given", ["gs://bucket/x", "~no-such-user/x", "a\0b"])
def test_what_is_no_path_of_this_machine_is_refused(given):
    with pytest.raises(UserError):
        files.local_path(given)


def test_without_a_home_directory_the_user_is_told_what_to_set(monkeypatch):
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(UserError, match="set HOME, or XDG_CACHE_HOME"):
        files.cache_directory()
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert files.cache_directory() == Path("/cache/seqarch")


def test_what_killed_processes_left_goes_and_what_living_ones_write_stays(tmp_path):
    ours = files.partial_name("x")
    host = ours.split(".")[2]
    dead = f".x.{host}.{2**22 + 1}.0123456789ab.partial"  # beyond the largest process id
    afar = ".x.elsewhere.1.0123456789ab.partial"
    old = ".x.elsewhere.1.ba9876543210.partial"
    theirs = ".x.partial"
    for name in (ours, dead, afar, old, theirs):
        (tmp_path / name).write_text("x")
    (tmp_path / (dead + ".old")).mkdir()
    os.utime(tmp_path / old, 2 * (time.time() - files.DEAD_AFTER_S - 60,))
    files.clear_partial(tmp_path, "other")
    assert len(os.listdir(tmp_path)) == 6
    files.write_text(tmp_path / "x", "text")
    assert set(os.listdir(tmp_path)) == {"x", ours, afar, theirs, dead + ".old"}
    files.clear_partial(tmp_path, suffix=".old")
    assert set(os.listdir(tmp_path)) == {"x", ours, afar, theirs}


def test_a_file_that_cannot_be_written_is_named_as_the_user_knows_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        files.write_text(tmp_path / "none" / "x", "text")
    assert error.value.filename == str(tmp_path / "none" / "x")


def test_names_do_not_command_the_terminal():
    assert printable("a\x1b]0;title\x07b\r\n\tc") == "a\\x1b]0;title\\x07b\\r\n\tc"
    assert printable("\udcff \u202e \u00e9 \U0001f600") == "\\udcff \\u202e \u00e9 \U0001f600"


@pytest.mark.parametrize("name", ["XDG_CACHE_HOME", "SEQARCH_FORMS"])
def test_urls_in_the_environment_are_refused(monkeypatch, name):
    monkeypatch.setenv(name, "gs://bucket/cache")
    with pytest.raises(UserError, match="gs://bucket/cache is a URL"):
        tuning.path() if name == "SEQARCH_FORMS" else files.cache_directory()
