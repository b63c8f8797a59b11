"""The commands that README.md, CONTRIBUTING.md and docs/ show are ones that the programs take."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from absl import flags

from seqarch import records
from seqarch.compare.spec import FIELDS
from seqarch.config import parse
from seqarch.errors import UserError
from seqarch.report.render import cells
from seqarch.runtime import cli
from seqarch.runtime.command_line import parse_flags
from seqarch.sweep.grid import parse_grid
from studies import out
from studies.commands import commands
from studies.walk import RanCommand, walk, walk_page, write

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
THEIRS = ("probes.py:first,", "my_mixers:", "configs/runs.py:")  # what a page's reader has written
SHOWN = [(page.name, command) for page in PAGES for command in commands(page)]
PYTHON = [(page, command) for page, command in SHOWN if command.startswith("python ")]


def check_only(main, argv=None, positional=(), more=False, device=True):
    """Takes the place of `cli.run`: reads the command line and the config, and starts nothing."""
    parse_flags(sys.argv, positional, more)
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    if config is not None:
        given = config.to_dict()
        base = parse({name: value for name, value in given.items() if name not in FIELDS})
        if "grid" in flags.FLAGS:
            parse_grid(flags.FLAGS["grid"].value, base)
    raise SystemExit(0)


@pytest.mark.parametrize(("page", "command"), PYTHON)
def test_a_command_is_one_that_its_program_takes(page, command, own_flags, monkeypatch):
    if any(name in command for name in THEIRS):
        pytest.skip("it needs what the reader has written")
    _, program, *arguments = shlex.split(command)
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr(cli, "run", check_only)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(program, run_name="__main__")
    assert end.value.code == 0


def test_commands_are_found_on_every_kind_of_page():
    assert len(PYTHON) > 30
    assert ("README.md", "tensorboard --logdir=runs") in SHOWN
    assert any(command.startswith("bash scripts/compare.sh") for _, command in SHOWN)


def test_a_run_that_is_read_was_made_before():
    """On the same page or in README.md, whose first command makes runs/tour."""
    made = {"README.md": {"runs/tour"}}
    for page, command in SHOWN:
        known = made.setdefault(page, set(made["README.md"]))
        read = set(re.findall(r"(?<![=\w/])runs/\w[\w/]*\b", command))
        written = set(re.findall(r"--workdir=(runs/[\w/]+)", command))
        if "eval.py" in command or "generate.py" in command:
            read, written = written, set()
        assert read <= known, (page, command)
        known |= written


def test_a_directory_is_that_of_one_run_on_all_pages():
    """So that who follows several pages meets no run of another config."""
    made = {}
    for page, command in SHOWN:
        for workdir in re.findall(r"--workdir=(runs/\S+)", command):
            if re.search(r"train\.py|sweep\.py|compare\.py", command):
                assert made.setdefault(workdir, command) == command, page


def test_a_walk_runs_each_command_once_and_tells_how_it_ended(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "text\n\n    bash -c 'echo one > file; \\\n      cat file'   # writes\n"
        "    tensorboard --logdir=.\n    bash -c 'exit 3'\n    bash -c 'exit 3'\n    pip no\n"
    )
    first, second = walk(tmp_path, [page], ["pip"])
    assert (first.code, first.said) == (0, "one") and first.command.endswith("; cat file'")
    assert (second.command, second.code) == ("bash -c 'exit 3'", 3)
    assert first.seconds > 0


def test_a_walk_without_commands_is_a_mistake(tmp_path):
    (page := tmp_path / "page.md").write_text("no command\n\n    pip no\n")
    with pytest.raises(UserError, match="page.md shows no command to run; a command is an inden"):
        next(walk(tmp_path, [page], ["pip"]))


def test_a_study_writes_no_records_over_those_of_another_kind(tmp_path):
    path = tmp_path / "new/records.jsonl"
    out.check(path, "walk")
    records.write(path, [], dict(kind="decoding"))
    with pytest.raises(UserError, match="records.jsonl holds no walk records; give another --out"):
        out.check(path, "walk")
    with pytest.raises(UserError, match="cannot make --out .*: Not a directory"):
        out.check(path / "new/records.jsonl", "walk")


def test_times_of_other_commands_stay_in_the_records(tmp_path):
    path = tmp_path / "records.jsonl"
    write(path, [RanCommand("one", 0, "", 90.0, 1.5), RanCommand("two", 0, "", 1.0, 0.0)])
    write(path, [RanCommand("two", 2, "error: no", 3.0, 0.25)])
    (table,) = walk_page(records.read(path).results).tables
    assert cells(table) == [["one", "1.5 min", "1.50", "0"], ["two", "3 s", "0.25", "2"]]
