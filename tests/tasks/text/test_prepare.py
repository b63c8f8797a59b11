"""Local files: every document arrives in exactly one split, chosen by its content, and mistakes get
one line.
"""

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from seqarch.errors import UserError
from seqarch.files import partial_name
from seqarch.tasks.text import tokens
from seqarch.tasks.text.prepare import prepare

TEXTS = [f"document {n}\r\nwith a wōrd\n" for n in range(40)]


def _splits(directory):
    """The contents of each split's documents, sorted."""
    files = {split: tokens.open_split(directory, split) for split in tokens.SPLITS}
    return {
        split: sorted(file.read(doc).tobytes().decode() for doc in file.documents)
        for split, file in files.items()
    }


def _names(directory):
    return {
        doc.name for split in tokens.SPLITS for doc in tokens.open_split(directory, split).documents
    }


def _write_texts(directory, texts, pack=False):
    directory.mkdir(parents=True, exist_ok=True)
    for n, text in enumerate(texts):
        if pack:
            (directory / f"{n}.txt.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (directory / f"{n}.txt").write_bytes(text.encode())


def _lines(texts):
    return "".join(
        json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)
    ).encode()


def test_every_format_gives_the_same_splits(tmp_path):
    _write_texts(tmp_path / "plain/a", TEXTS[:20])
    _write_texts(tmp_path / "plain/b", TEXTS[20:])
    _write_texts(tmp_path / "packed", TEXTS[::-1], pack=True)
    (tmp_path / "all.jsonl").write_bytes(_lines(TEXTS))
    (tmp_path / "all.jsonl.gz").write_bytes(gzip.compress(b"\n" + _lines(["", *TEXTS])))
    found = {}
    for pattern in ("plain/**/*.txt", "packed/*", "all.jsonl", "all.jsonl.gz"):
        meta = prepare(str(tmp_path / pattern), str(tmp_path / "out"), validation=0.1, test=0.2)
        found[pattern] = _splits(tmp_path / "out")
        assert {split: summary["documents"] for split, summary in meta["splits"].items()} == {
            "train": 28,
            "validation": 4,
            "test": 8,
        }
    first = found["plain/**/*.txt"]
    assert sorted(text for split in first.values() for text in split) == sorted(TEXTS)
    assert all(splits == first for splits in found.values())


def test_names_are_paths_and_lines(tmp_path):
    _write_texts(tmp_path / "in/a", TEXTS[:2])
    _write_texts(tmp_path / "in/b", TEXTS[2:3])
    (tmp_path / "in/b/more.jsonl").write_bytes(_lines(["", *TEXTS[3:5]]))
    prepare(str(tmp_path / "in/*/*"), str(tmp_path / "out"))
    assert _names(tmp_path / "out") == {
        "a/0.txt",
        "a/1.txt",
        "b/0.txt",
        "b/more.jsonl:2",
        "b/more.jsonl:3",
    }


def test_copies_stay_together_and_the_seed_decides(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(_lines(TEXTS + TEXTS[::-1]))
    prepare(str(tmp_path / "in.jsonl"), str(tmp_path / "zero"))
    prepare(str(tmp_path / "in.jsonl"), str(tmp_path / "one"), seed=1)
    zero = _splits(tmp_path / "zero")
    assert {split: len(texts) for split, texts in zero.items()} == {
        "train": 72,
        "validation": 4,
        "test": 4,
    }
    assert all(len(set(texts)) == len(texts) // 2 for texts in zero.values())
    assert zero != _splits(tmp_path / "one")


def test_three_documents_are_enough(tmp_path):
    _write_texts(tmp_path / "in", TEXTS[:3])
    prepare(str(tmp_path / "in/*.txt"), str(tmp_path / "out"))
    assert all(len(texts) == 1 for texts in _splits(tmp_path / "out").values())


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    (tmp_path / "in.jsonl").write_bytes(_lines([str(n) * 4000 for n in range(1000)]))
    tracemalloc.start()
    prepare(str(tmp_path / "in.jsonl"), str(tmp_path / "out"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = (tmp_path / "in.jsonl").stat().st_size
    assert peak < size / 10


@pytest.mark.parametrize(
    "files, options, message",
    [
        ({}, {}, "no file matches"),
        ({"a.pdf": b"x"}, {}, "expected .txt, .jsonl"),
        ({"a.txt": b"", "b.jsonl": b"\n"}, {}, "0 distinct documents"),
        (
            {"a.txt": b"one", "b.txt": b"two", "c.txt": b"one"},
            {},
            "2 distinct documents .* give more documents",
        ),
        ({"a.jsonl": b'{"text": "x"}\n{"text": \n'}, {}, "a.jsonl, line 2: expected a JSON object"),
        ({"a.jsonl": b'{"text": "x"}\n\n{"body": "x"}\n'}, {}, "a.jsonl, line 3: "),
        ({"a.jsonl": b'{"text": 3}'}, {}, "a.jsonl, line 1: "),
        ({"a.jsonl": b'["text"]'}, {}, "a.jsonl, line 1: "),
        ({"a.jsonl": b"[" * 99_999}, {}, "a.jsonl, line 1: expected a JSON object"),
        ({"a.txt.gz": gzip.compress(b"text" * 99)[:-9]}, {}, "cannot read .*a.txt.gz"),
        ({"a.jsonl.gz": b"not packed"}, {}, "cannot read .*a.jsonl.gz"),
        ({"a.txt": b"x"}, dict(validation=0.5, test=0.5), "sum below 1"),
        ({"a.txt": b"x"}, dict(test=0.0), "positive fractions"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(tmp_path, files, options, message):
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        prepare(str(tmp_path / "in" / "*"), str(tmp_path / "out"), **options)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_half_of_a_surrogate_pair_costs_a_warning_and_not_the_corpus(tmp_path):
    lines = ['{"text": "a"}', '{"text": "b\\ud83d"}', '{"text": "\\ude00c"}', '{"text": "d"}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    said = []
    prepare(str(tmp_path / "in.jsonl"), str(tmp_path / "out"), say=said.append)
    texts = {text for split in _splits(tmp_path / "out").values() for text in split}
    assert texts == {"a", "b\ufffd", "\ufffdc", "d"}
    assert len(said) == 1 and "2, the first in " in said[0] and "in.jsonl, line 2" in said[0]


def test_what_a_killed_process_left_goes_with_the_next_start(tmp_path):
    _write_texts(tmp_path / "in", TEXTS)
    dead = partial_name("out").replace(f".{os.getpid()}.", f".{2**22 + 1}.")
    living = partial_name("out")
    for name in (dead, dead + ".old", living):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.bin").touch()
    prepare(str(tmp_path / "in/*.txt"), str(tmp_path / "out"))
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", living, dead + ".old"}
    prepare(str(tmp_path / "in/*.txt"), str(tmp_path / "out"))
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", living}


def test_a_long_document_is_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "BLOCK", 1 << 16)
    size = 1 << 22
    for name in "abc":
        (tmp_path / f"{name}.txt").write_bytes(name.encode() * size)
    tracemalloc.start()
    meta = prepare(str(tmp_path / "*.txt"), str(tmp_path / "out"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert meta["splits"]["train"]["bytes"] == size
    assert peak < 2.5 * size  # the document that was read, and the one before


@pytest.mark.slow
def test_the_command_runs_anywhere_and_answers_mistakes_in_one_line(tmp_path):
    def run(*arguments):
        script = Path(__file__).parents[3] / "scripts/prepare_data.py"
        return subprocess.run(
            [sys.executable, script, *arguments], cwd=tmp_path, capture_output=True, text=True
        )

    _write_texts(tmp_path / "in", TEXTS)
    done = run("--input=in/*.txt", "--output=out")
    assert (done.returncode, done.stderr) == (0, "")
    assert "train: 36 documents" in done.stdout
    assert _splits(tmp_path / "out")["train"]
    for arguments in (
        ["--input=in/*.txt", "--output=in"],
        ["--input=in/*.txt"],
        ["--input=none", "--output=out"],
    ):
        failed = run(*arguments)
        assert failed.returncode == 2
        assert failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1
