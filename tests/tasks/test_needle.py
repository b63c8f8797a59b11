"""Needle in a haystack: where its facts stand, and the text around them."""

import dataclasses
import re

import numpy as np
import pytest

from configs.probes import find_probe, get_config
from seqarch.config import parse
from seqarch.errors import UserError
from seqarch.tasks import make_task
from seqarch.tasks.base import SPLITS
from seqarch.tasks.needle import Needle
from seqarch.tasks.text import tokens, writer
from seqarch.tasks.text.corpus import locate

FACT = re.compile(r"\nThe key of ([A-Z]{2}) is (\d{4})\.\n")
QUESTION = re.compile(r"\nThe key of ([A-Z]{2}) is (\d{3})$")


def texts(rows) -> list[str]:
    """The text of each row; documents' boundaries are the last byte's character."""
    return ["".join(map(chr, row)) for row in np.minimum(rows.tokens, 255).tolist()]


def of_text(path, task: str = "needle") -> Needle:
    config = get_config(f"{task},gru")
    config.data.path = str(path)
    return make_task(parse(config))


def test_a_row_by_hand():
    text = "\nThe key of AB is 12.\nWherefore\nThe key of BA is 34.\n"
    text += "The key of this sad heart is 9\nThe key of AB is 1"
    probe = Needle(length=len(text), facts=2, digits=2)
    row = np.frombuffer(text.encode(), np.uint8).astype(int)[None]
    assert bytes(probe.solve(row)[0, -2:].tolist()) == b"12"
    assert (probe.solve(row)[0, :-2] == -1).all()
    asks = text.rindex(" ")
    assert probe.distances(row)[0, -2:].tolist() == [asks - text.index("12")] * 2


@pytest.mark.parametrize("facts", [1, 2, 8])
def test_a_row_has_its_facts_once_and_asks_for_one(facts):
    probe = find_probe(f"needle(facts={facts})")
    rows = probe.rows("validation", 0, 0, 300)
    asked = []
    for text, targets in zip(texts(rows), rows.targets[:, -4:].tolist(), strict=True):
        found = dict(FACT.findall(text))
        name, given = QUESTION.search(text).groups()
        assert len(found) == facts and found[name] == "".join(map(chr, targets))
        assert found[name].startswith(given) and text.count("The key of ") == facts + 1
        asked.append(list(found).index(name))
    assert set(asked) == set(range(facts))
    assert rows.scored.sum(axis=1).tolist() == [4] * 300


@pytest.mark.parametrize("split", SPLITS)
def test_the_rest_of_a_row_is_a_window_of_the_text_of_its_split(split):
    whole = tokens.open_split(locate("shakespeare"), split).tokens
    whole = "".join(map(chr, np.minimum(whole, 255).tolist())).replace("The key of ", "the key of ")
    seen = set()
    for text in texts(find_probe("needle(facts=2)").rows(split, 0, 0, 100)):
        rest = QUESTION.sub("", FACT.sub("", text))
        assert len(rest) == 256 - 2 * 24 - 21
        assert rest.lower() in (whole * 4).lower()
        seen.add(rest)
    assert len(seen) > 40


@pytest.mark.parametrize("task", ["needle", "needle(facts=5)"])
def test_all_scales_of_distance_are_equally_likely(task):
    probe = find_probe(task)
    rows = probe.rows("train", 0, 0, 4000)
    found = probe.distances(rows.tokens)[:, -1]
    assert found.min() == 23 and found.max() == 234
    edges = np.geomspace(23, 235, 6)
    shares = np.histogram(found, edges)[0] / 4000
    assert shares == pytest.approx(np.full(5, 0.2), abs=0.04)


def test_a_distance_can_be_chosen():
    probe = find_probe("needle(facts=3,distance=100,digits=2)")
    rows = probe.rows("test", 0, 0, 50)
    assert (probe.distances(rows.tokens) == 100).all()
    assert (probe.solve(rows.tokens) == rows.targets)[rows.scored].all()
    assert Needle(distance=234).varied(length=1024).distance == 234


def test_the_text_is_that_of_the_config_and_rows_are_known_by_its_content(tmp_path):
    default = locate("shakespeare")
    (tmp_path / "copy").symlink_to(default)
    other = tmp_path / "other"
    works = [(split, split, b"word " * 100) for split in SPLITS]
    writer.write(other, works, {}, replace=False)
    assert of_text(tmp_path / "copy").digest == find_probe("needle").digest
    assert of_text(other).digest != find_probe("needle").digest
    assert texts(of_text(other).rows("train", 0, 0, 1))[0].count("word") > 30
    assert dataclasses.replace(of_text(other), facts=2).text == str(other)


def test_another_text_than_of_bytes_is_refused(tmp_path):
    (tmp_path / "gpt").mkdir()
    meta = (locate("shakespeare") / "meta.json").read_text()
    (tmp_path / "gpt" / "meta.json").write_text(meta.replace('"bytes"', '"tokenizer.json"', 1))
    for split in SPLITS:
        data = (locate("shakespeare") / f"{split}.bin").read_bytes()
        (tmp_path / "gpt" / f"{split}.bin").write_bytes(data)
    with pytest.raises(UserError, match="needs a text of bytes, and that in .*gpt has tokens of"):
        of_text(tmp_path / "gpt")
    with pytest.raises(UserError, match="no prepared text in .*none"):
        of_text(tmp_path / "none")
    with pytest.raises(UserError, match="unknown option of task needle 'text'"):
        of_text(tmp_path / "none", "needle(text=gpt)")
