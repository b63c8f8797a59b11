"""Every program's command line: what is answered in one line, and what reaches the terminal."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from seqarch.config import Config
from seqarch.errors import UserError
from seqarch.mixers import MIXERS
from seqarch.runtime import cli, overrides
from seqarch.runtime.help import config_fields, meanings, mixer_options
from tests.grids import slow_but

ROOT = Path(__file__).parents[2]


def answer(raised: BaseException, capfd, monkeypatch) -> tuple[int, str]:
    """Exit code and stderr of a program in which `raised` is raised."""
    monkeypatch.setattr(cli, "quiet", lambda: None)
    monkeypatch.setattr(cli, "parse_flags", lambda *_: [])

    def main() -> None:
        raise raised

    with pytest.raises(SystemExit) as end:
        cli.run(main, ["program"], device=False)
    return end.value.code, capfd.readouterr().err


@pytest.mark.parametrize(
    "number",
    [errno.EPERM, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.EROFS, errno.ENOENT],
)
def test_a_path_that_the_system_refuses_is_a_line(number, capfd, monkeypatch):
    error = OSError(number, os.strerror(number), "/some/file")
    code, said = answer(error, capfd, monkeypatch)
    assert code == 2
    assert said == f"error: /some/file: {os.strerror(number)}; give another path, or make " + (
        "this one usable\n"
    )


def test_no_name_commands_the_terminal(capfd, monkeypatch):
    code, said = answer(UserError("a\x1b]0;b\x07\nc \udcff"), capfd, monkeypatch)
    assert (code, said) == (2, "error: a\\x1b]0;b\\x07\\nc \\udcff\n")


def test_a_bug_keeps_its_traceback(capfd, monkeypatch):
    with pytest.raises(KeyError):
        answer(KeyError("x"), capfd, monkeypatch)


ALL = "<&- >&- 2>&-"


@pytest.mark.parametrize("closed", slow_but({ALL}, ["<&-", ">&-", "2>&-", ALL]))
def test_closed_streams_are_as_if_nobody_listened(closed, tmp_path):
    program = (
        "import os; from seqarch.runtime import cli; "
        "cli.run(lambda: print('x\\x1b', flush=True) or open('file', 'w').write('text'), "
        "['program'], device=False)"
    )
    command = f'exec "{sys.executable}" -c "{program}" {closed}'
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout in (b"", b"x\\x1b\n")
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        ("--config=configs/lm.py:gru", f"--config={ROOT}/configs/lm.py:gru"),
        ("--config configs/lm.py", f"--config {ROOT}/configs/lm.py"),
        ("-config=here.py:a(b=1)", "-config=here.py:a(b=1)"),
        ("--config=no/where.py", "--config=no/where.py"),
        ("--workdir=configs/lm.py", "--workdir=configs/lm.py"),
    ],
)
def test_a_config_is_found_from_any_directory(argv, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.py").touch()
    assert overrides.with_config_found(["p", *argv.split()]) == ["p", *found.split()]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("configs/lm.py:gru", "give it as --config=configs/lm.py:gru"),
        ("configs/lm.py:a(b=1)", "give it as --config='configs/lm.py:a(b=1)'"),
        ("--workdir=x", "--config=VALUE is required, such as"),
    ],
)
def test_a_config_that_is_not_given_is_asked_for(argv, words):
    assert words in str(overrides.missing_config(["train.py", argv]))


@pytest.mark.parametrize(
    ("value", "given", "refused"),
    [
        (("gru,mamba",), "gru,mamba", True),
        (("gru,a(b=1,c=2)",), "gru,a(b=1,c=2)", True),
        (("a(b=1,c=2)",), "a(b=1,c=2)", False),
        (("gru",), "gru", False),
        (("gru", "mamba"), "('gru','mamba')", False),
        (("gru,mamba",), "('gru,mamba',)", False),
    ],
)
def test_one_text_is_not_several_values(value, given, refused):
    config = ConfigDict(dict(members=value))
    argv = ["compare.py", f"--config.members={given}"]
    if not refused:
        return overrides.check_tuples(argv, config)
    with pytest.raises(UserError, match="is one text with commas"):
        overrides.check_tuples(argv, config)


def test_help_says_what_every_field_and_option_means():
    said = {name: meaning for name, _, meaning in config_fields(Config)}
    for mixer in MIXERS:
        said |= {f"{mixer}.{name}": meaning for name, _, meaning in mixer_options(mixer)}
    assert {"steps", "optim.lr", "eval.limit", "mesh.fsdp", "mamba.chunk"} <= set(said)
    assert [name for name, meaning in said.items() if not meaning] == []
    assert said["optim.warmup"] == "steps of the warm-up"


def test_a_meaning_goes_to_the_next_field():
    class Documented:
        """What it is, which is no meaning: none.

        a: first
          goes on
        b: second

        Further text.
        """

    assert meanings(Documented, ["a", "b", "c"]) == {"a": "first goes on", "b": "second"}


def test_the_config_of_the_readme_says_what_each_field_means():
    lines = (ROOT / "configs/lm.py").read_text().splitlines()
    fields = [line for line in lines if line.startswith("    config.") and "ConfigDict" not in line]
    assert len(fields) > 30 and all("  # " in line for line in fields)


@pytest.mark.parametrize("text", ["0", "-5", "4k", "", "1e3"])
def test_a_length_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="at least 1"):
        cli.read_lengths([text])


def test_lengths_that_can_be_read_are_sorted_and_the_others_told(capsys):
    assert cli.read_lengths(["64", "4k", " 8", "64"]) == [8, 64]
    assert capsys.readouterr().err.startswith("left out: --lengths has '4k'")
