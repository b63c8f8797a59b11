"""Whatever stands in the JSON files of a run, a text or a tokenizer, it is read or refused in one
line.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqarch import records
from seqarch.config import Config, to_dict
from seqarch.errors import UserError
from seqarch.tasks.text import tokenizer, tokens
from seqarch.training import restore, rundir
from seqarch.training.logging import read_rows
from seqarch.training.restore import Damaged

START = {"versions": {}, "host": {}, "devices": {}}
SPLIT = {"tokens": 3, "bytes": 2, "documents": 1, "sha256": "0"}
SOURCE = {
    "id": "a",
    "source": {"member": "m", "kind": "run", "config": {}, "step": 1, "split": "", "seeds": {}}
    | {"provenance": {}, "facts": {}},
}


def signed(record: dict) -> dict:
    text = json.dumps(record, sort_keys=True).encode()
    return record | {"sha256": hashlib.sha256(text).hexdigest()}


# By name: what is read, and by which function.
FILES: dict[str, tuple[Any, Callable[[Path], Any]]] = {
    "config.json": (to_dict(Config()), lambda path: rundir.stored_config(path.parent)),
    "run.json": (START | {"continued": [START]}, lambda path: rundir.read_record(path.parent)),
    "record/metadata": (
        signed({"step": 1, "stream": {}, "config": {}, "arrays": {"w": ["float32[]", "0"]}}),
        lambda path: restore.read_record(path.parents[1]),
    ),
    "meta.json": (
        tokens.layout("bytes", 257, 256)
        | {"source": {}, "splits": dict(train=SPLIT, validation=SPLIT)},
        lambda path: tokens.read_meta(path.parent),
    ),
    "tokenizer.json": ({"model": {"vocab": {"a": 0, "b": 1}}}, tokenizer.load),
}
NONSENSE = ["", "{", "null", "3", '"x"', "[1]", '[["a", 1]]', "\ufeff", "[" * 99_999]
NONSENSE += ["[" * 99 + "]" * 99, '{"a":' * 99 + "1" + "}" * 99, b"\xff\x00"]


def read(tmp_path: Path, name: str, content: str | bytes) -> Any:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return FILES[name][1](path)


@pytest.mark.parametrize("content", NONSENSE, ids=range(len(NONSENSE)))
@pytest.mark.parametrize("name", FILES)
def test_nonsense_is_refused_in_a_line_that_names_the_file(tmp_path, name, content):
    with pytest.raises((UserError, Damaged)) as error:
        read(tmp_path, name, content)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def set_in(value: Any, path: tuple, new: Any) -> Any:
    """`value` with `new` at `path`."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = set_in(copy[path[0]], path[1:], new)
    return copy


def places(value: Any, path: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else ()
    return [path] + [place for name, each in inner for place in places(each, (*path, name))]


@pytest.mark.parametrize("name", FILES)
def test_any_field_may_have_any_type(tmp_path, name):
    whole, _ = FILES[name]
    read(tmp_path, name, json.dumps(whole))
    for place in places(whole):
        for wrong in (None, True, -1, 2_000_000_000, 1e400, "x", [], [[]], {}, {"x": [{}]}):
            value = set_in(whole, place, wrong)
            if name == "record/metadata" and isinstance(value, dict) and place != ("sha256",):
                value = signed({key: each for key, each in value.items() if key != "sha256"})
            try:
                read(tmp_path, name, json.dumps(value))
            except (UserError, Damaged) as error:
                assert str(tmp_path) in str(error) and "\n" not in str(error)


def test_a_token_beyond_any_vocabulary_takes_no_memory(tmp_path):
    with pytest.raises(UserError, match="is no tokenizer.json"):
        read(tmp_path, "tokenizer.json", '{"model": {"vocab": {"a": 2000000000}}}')


def test_rows_that_are_none_are_left_out(tmp_path):
    rows = [{"step": 1, "loss": 2.0, "refused": None}, {"step": 2, "loss": 1}]
    wrong = [{"step": "1"}, {"step": 3, "loss": "x"}, {"step": True}, [1], {"loss": 1.0}]
    lines = [*map(json.dumps, [*wrong, *rows]), *("[" * 99_999, "{", "\x00")]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert read_rows(tmp_path) == rows


def test_records_of_wrong_types_are_refused(tmp_path):
    record = {"run": "a", "evaluator": "quality", "metric": "loss", "value": 1.0, "at": {}, "n": 1}
    path, head = tmp_path / "records.jsonl", {"version": records.VERSION, "about": {}}
    path.write_text("\n".join(map(json.dumps, [head, SOURCE, record])))
    assert records.read(path).results[0].value("quality", "loss") == 1.0
    for whole, index in ((SOURCE, 1), (record, 2)):
        for place in places(whole):
            for wrong in (True, "x", 1.5, [1], {"x": 1}):
                lines = [head, SOURCE, record]
                lines[index] = set_in(whole, place, wrong)
                path.write_text("\n".join(map(json.dumps, lines)))
                try:
                    records.read(path)
                except UserError as error:
                    assert str(path) in str(error) and "\n" not in str(error)
