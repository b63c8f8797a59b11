"""Tokens that are no bytes: what they say is counted byte for byte, from the file to training,
scores and generated text.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from seqarch.config import Config, DataConfig, EvalConfig, ModelConfig
from seqarch.errors import UserError
from seqarch.evals import losses, quality
from seqarch.evals.baselines import BASELINES
from seqarch.evals.evaluate import evaluate
from seqarch.tasks.text import corpus, loader, tokenizer, tokenizer_json, tokens, writer
from seqarch.tasks.text.prepare import _stream, prepare
from seqarch.tasks.text.tokenizer import BOUNDARY, BYTES
from seqarch.training.logging import read_rows
from seqarch.training.loop import train

END = "<|endoftext|>"
MERGES = ["t h", "th e", "\u0120 the", "\u0120 t"]  # \u0120 is the space of byte-level vocabularies
TEXTS = [f"the {n} the thé".encode() * 4 for n in range(6)]


def spec(**changes) -> dict:
    """A byte-level BPE as Hugging Face's tokenizers save it: the bytes, four merges and a special
    token.
    """
    vocab = {character: value for character, value in tokenizer_json._BYTE_LEVEL.items()}
    vocab |= {merge.replace(" ", ""): 256 + i for i, merge in enumerate(MERGES)} | {END: 260}
    special = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return {
        "version": "1.0",
        "truncation": dict(direction="Right", max_length=4, strategy="LongestFirst", stride=0),
        "padding": None,
        "added_tokens": [{"id": 260, "content": END, **special}],
        "normalizer": None,
        "pre_tokenizer": dict(
            type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True
        ),
        "post_processor": None,
        "decoder": dict(type="ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True),
        "model": dict(type="BPE", vocab=vocab, merges=MERGES),
        **changes,
    }


def merged(text: bytes) -> list[int]:
    """Tokens of the vocabulary above that say `text`, found without a library."""
    found = []
    while text:
        token = 258 if text.startswith(b" the") else 257 if text.startswith(b"the") else text[0]
        found, text = [*found, token], text[{258: 4, 257: 3}.get(token, 1) :]
    return found


@pytest.fixture(scope="module")
def top(tmp_path_factory) -> Path:
    """tokenizer.json, nanoGPT's files in bin/, and the same documents prepared from both, in
    tokens/ and bytes/.
    """
    top = tmp_path_factory.mktemp("tokens")
    (top / "tokenizer.json").write_text(json.dumps(spec()))
    (top / "bin").mkdir()
    for name, texts in (("train", TEXTS[:4]), ("val", TEXTS[4:])):
        stream = [token for text in texts for token in [*merged(text), 260]]
        np.array(stream, np.uint16).tofile(top / "bin" / f"{name}.bin")
    prepare(str(top / "bin/*.bin"), str(top / "tokens"), tokenizer_path=str(top / "tokenizer.json"))
    documents = [("train", f"train.bin:{n}", text) for n, text in enumerate(TEXTS[:4], 1)]
    documents += [("validation", f"val.bin:{n}", text) for n, text in enumerate(TEXTS[4:], 1)]
    writer.write(top / "bytes", documents, {}, replace=False)
    return top


@pytest.fixture(scope="module")
def run(top) -> Path:
    config = Config(
        steps=2,
        batch=2,
        length=16,
        log_every=1,
        model=ModelConfig("gru", layers=1, dim=8, mlp=0, vocab=262),
        data=DataConfig(str(top / "tokens")),
        eval=EvalConfig(batch=2, limit=20),
    )
    train(config, top / "run", progress=lambda line: None)
    return top / "run"


def test_the_program_takes_a_tokenizer(top, tmp_path, run_here):
    given = f"--input={top}/bin/*.bin", f"--output={tmp_path}/out"
    done = run_here("scripts/prepare_data.py", *given, f"--tokenizer={top}/tokenizer.json")
    assert done.returncode == 0 and "--config.model.vocab=262" in done.stdout, done
    assert tokens.read_meta(tmp_path / "out") == tokens.read_meta(top / "tokens")


def test_a_vocabulary_says_what_each_token_is_in_bytes():
    added = [dict(id=5, content="\u2581x", special=False), dict(id=6, content="<s>", special=True)]
    pieces = [["<unk>", 0], ["\u2581the", -1], ["<0x0A>", -2], ["\u00e9", -3]]
    given = {
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace"}, {"type": "ByteFallback"}]}
    }
    table = tokenizer_json.token_bytes(given | {"added_tokens": added, "model": {"vocab": pieces}})
    assert table == [b"<unk>", b" the", b"\n", "\u00e9".encode(), b"", "\u2581x".encode(), b""]


def test_a_file_of_wider_tokens_than_its_vocabulary_needs_is_refused(top, tmp_path):
    """Read as uint16, every second token of a uint32 file would be 0."""
    for name in ("train", "val"):
        np.array([5, 1, 7, 300, 2, 0], np.uint32).tofile(tmp_path / f"{name}.bin")
    with pytest.raises(UserError, match="every second token of .* is 0: it seems to hold uint32"):
        prepare(
            str(tmp_path / "*.bin"),
            str(tmp_path / "out"),
            tokenizer_path=str(top / "tokenizer.json"),
        )


def test_the_tokens_of_bin_files_are_their_documents(top):
    meta = json.loads((top / "tokens/meta.json").read_text())
    assert (meta["tokenizer"], meta["vocab"], meta["boundary"]) == ("tokenizer.json", 262, 261)
    assert (
        meta["splits"]["train"]["bytes"]
        == sum(map(len, TEXTS[:4]))
        > meta["splits"]["train"]["tokens"]
    )
    for split in ("train", "validation"):
        ours, theirs = (tokens.open_split(top / kind, split) for kind in ("tokens", "bytes"))
        assert ours.bytes == theirs.bytes
        for mine, document in zip(ours.documents, theirs.documents, strict=True):
            assert mine.name == document.name and ours.tokens[mine.start] == 261
            assert ours.read(mine).tobytes() == theirs.read(document).tobytes()
            assert (
                ours.read(mine, 8).tobytes() == ours.read(mine)[:5].tobytes()
            )  # "the", " ", a digit; no half of " the"
        for count in (7, 40, 10**6):
            np.testing.assert_array_equal(ours.last_symbols(count), theirs.last_symbols(count))
    with pytest.raises(UserError, match="unknown split 'test'; known: train, validation"):
        tokens.open_split(top / "tokens", "test")


def test_symbols_are_joined_from_blocks(top, monkeypatch):
    monkeypatch.setattr(tokens, "BLOCK", 5)
    split = tokens.open_split(top / "tokens", "train")
    expected = np.concatenate([[BOUNDARY, *text] for text in TEXTS[:4]])
    np.testing.assert_array_equal(split.last_symbols(10**6), expected)
    np.testing.assert_array_equal(split.last_symbols(33), expected[-33:])


def test_large_vocabularies_take_four_bytes(tmp_path):
    large = tokenizer.Tokenizer([b"x"] * 70_000, "{}")
    documents = [(split, "d", np.array([69_999, 3])) for split in tokens.SPLITS]
    writer.write(tmp_path / "out", documents, {}, tokenizer=large, replace=False)
    assert tokens.read_meta(tmp_path / "out")["dtype"] == "<u4"
    assert (tmp_path / "out/train.bin").read_bytes() == np.array(
        [70_000, 69_999, 3], "<u4"
    ).tobytes()


def test_bits_per_byte_are_those_of_bytes_everywhere(top, run):
    """All nats over all bytes: with equal logits that is log2(262) bits a token, in training,
    validation and the records.
    """
    first, text = read_rows(run)[0], tokens.open_split(top / "tokens", "train")
    assert first["bits_per_byte"] == pytest.approx(
        first["loss"] / np.log(2) * len(text.tokens) / text.bytes
    )
    assert 0.9 < read_rows(run)[-1]["validation_bits_per_byte"] / (np.log2(262) * 0.65) < 1.1
    results = evaluate(run, only=["quality"], progress=lambda line: None)
    held_out = tokens.open_split(top / "tokens", "validation")
    found = losses.texts(held_out, 20)
    scored = [held_out.read(document, 20) for document in held_out.documents]
    assert all(17 <= len(part) <= 20 for part in scored)
    score, size = (results.value("quality", name) for name in ("bits_per_byte", "bytes"))
    assert size == sum(map(len, scored))
    bits = score * size / sum(len(text.targets) for text in found)
    assert bits == pytest.approx(np.log2(262), rel=0.05)
    each, sizes = (
        results.all("quality", f"document_{name}")[0].value for name in ("bits_per_byte", "bytes")
    )
    assert sizes == [len(part) for part in scored]
    assert np.average(each, weights=sizes) == pytest.approx(score)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_score_the_same_bytes(top, name):
    def score(kind):
        splits = (tokens.open_split(top / kind, split) for split in ("train", "validation"))
        return list(BASELINES[name](*splits))

    assert score("tokens") == score("bytes")


def test_texts_of_the_same_bytes_have_the_same_digest(top):
    splits = [tokens.open_split(top / kind, "validation") for kind in ("tokens", "bytes")]
    whole = [quality.digest(split, losses.texts(split)) for split in splits]
    assert whole[0] == whole[1] != quality.digest(splits[0], losses.texts(splits[0], 20))


@pytest.mark.slow
def test_text_is_generated_without_the_prepared_directory_and_the_library(
    run, tmp_path, run_here, monkeypatch
):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    run.rename(tmp_path / "moved")
    done = run_here("scripts/generate.py", f"--workdir={tmp_path / 'moved'}", "--steps=5")
    (tmp_path / "moved").rename(run)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 1


def test_text_needs_the_library_and_is_told_so(top, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(
        UserError, match="^tokenizer.json needs the package tokenizers .*; pip install tokenizers$"
    ):
        prepare(
            str(tmp_path / "a.txt"),
            str(tmp_path / "out"),
            tokenizer_path=str(top / "tokenizer.json"),
        )


def test_a_config_of_another_vocabulary_is_told_which_to_set(top):
    with pytest.raises(
        UserError, match=r"model.vocab is 257, .* has 262 tokens .*; set --config.model.vocab=262"
    ):
        train(
            Config(data=DataConfig(str(top / "tokens"))), top / "unused", progress=lambda line: None
        )
    assert corpus.locate(str(top / "tokens"), 262) == top / "tokens"
    assert not (top / "unused").exists()


def test_a_token_beyond_the_vocabulary_is_told():
    with pytest.raises(UserError, match="has a token 300, its vocabulary ends at 261"):
        next(loader.batches(np.full(40, 300, np.uint16), boundary=261, length=8, batch=2, seed=0))


@pytest.mark.parametrize(
    "files, tokenizer_json, message",
    [
        ({"train.bin": [1], "val.bin": [2]}, None, "give the --tokenizer that made them"),
        ({"train.bin": [1]}, spec(), "give train.bin and val.bin"),
        ({"train.bin": [1], "val.bin": [2], "more.bin": [3]}, spec(), "give train.bin and val.bin"),
        ({"train.bin": [1], "val.bin": [2], "x.txt": [3]}, spec(), ".bin files alone"),
        (
            {"train.bin": [1], "val.bin": [261]},
            spec(),
            "val.bin has a token 261, the tokenizer's are 0 to 260",
        ),
        ({"train.bin": [1], "val.bin": []}, spec(), "val.bin has 0 bytes"),
        ({"train.bin": [1], "val.bin": [2]}, {"model": {}}, "is no tokenizer.json"),
        ({"train.bin": [1], "val.bin": [2]}, [], "is no tokenizer.json"),
        ({"train.bin": [1], "val.bin": [2]}, "missing", "cannot read the tokenizer"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(tmp_path, files, tokenizer_json, message):
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        np.array(content, np.uint16).tofile(tmp_path / "in" / name)
    path = tmp_path / "in.json"
    if tokenizer_json != "missing":
        path.write_text(json.dumps(tokenizer_json))
    with pytest.raises(UserError, match=message) as error:
        prepare(
            str(tmp_path / "in/*"),
            str(tmp_path / "out"),
            tokenizer_path=None if tokenizer_json is None else str(path),
        )
    assert "\n" not in str(error.value)
    assert not {path.name for path in tmp_path.iterdir()} - {"in", "in.json"}


def test_another_tokenizer_in_a_prepared_directory_is_noticed(top, tmp_path):
    writer.write(
        tmp_path / "out", [(split, "d", b"text") for split in tokens.SPLITS], {}, replace=False
    )
    (tmp_path / "out/tokenizer.json").write_text(json.dumps(spec()))
    with pytest.raises(UserError, match="has 262 tokens, meta.json says 257"):
        tokens.open_split(tmp_path / "out", "train").tokenizer  # noqa: B018


class TestWithTheLibrary:
    """Where `pip install tokenizers` was run."""

    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("tokenizers")

    def test_every_text_comes_back(self, top):
        encoder = tokenizer.load(top / "tokenizer.json")
        for text in (
            b"the the thing",
            "th\u00e9 \U0001f642 \r\n\t".encode(),
            END.encode(),
            b"",
            bytes(range(128)),
        ):
            found = encoder.encode(text)
            assert encoder.decode(found) == text and encoder.sizes[found].sum() == len(text)
        assert encoder.encode("the the").tolist() == [257, 258]
        assert 260 not in encoder.encode(END)

    def test_text_is_prepared_as_its_bytes(self, top, tmp_path):
        for number, text in enumerate(TEXTS):
            (tmp_path / f"{number}.txt").write_bytes(text)
        meta = {}
        for kind, path in (("tokens", str(top / "tokenizer.json")), ("bytes", None)):
            meta[kind] = prepare(str(tmp_path / "*.txt"), str(tmp_path / kind), tokenizer_path=path)
        for split in tokens.SPLITS:
            ours, theirs = (
                tokens.open_split(tmp_path / kind, split) for kind in ("tokens", "bytes")
            )
            np.testing.assert_array_equal(ours.last_symbols(10**6), theirs.last_symbols(10**6))
            assert [document.name for document in ours.documents] == [
                document.name for document in theirs.documents
            ]
            assert len(ours.tokens) < len(theirs.tokens)

    def test_what_loses_something_is_refused(self, tmp_path):
        (tmp_path / "lower.json").write_text(json.dumps(spec(normalizer={"type": "Lowercase"})))
        for number in range(3):
            (tmp_path / f"{number}.txt").write_text(f"The {number}")
        with pytest.raises(
            UserError, match="0.txt: tokenizer.json makes 'the 0' of 'The 0'; .* byte-level BPE"
        ):
            prepare(
                str(tmp_path / "*.txt"),
                str(tmp_path / "out"),
                tokenizer_path=str(tmp_path / "lower.json"),
            )
        assert not (tmp_path / "out").exists()

    def test_bytes_that_are_no_text_are_refused(self, top):
        with pytest.raises(UserError, match="takes text in UTF-8"):
            tokenizer.load(top / "tokenizer.json").encode(b"caf\xe9")

    @pytest.mark.slow
    def test_a_prompt_is_continued(self, run, run_here):
        given = f"--workdir={run}", "--steps=5", "--prompt=the the"
        done = run_here("scripts/generate.py", *given)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("the the")


def test_bytes_are_kept_by_their_absence(tmp_path):
    BYTES.save(tmp_path)
    assert tokenizer.kept(tmp_path) is BYTES and not list(tmp_path.iterdir())


def test_the_vocabulary_decides_the_width_of_bin_files(tmp_path):
    path, large = tmp_path / "train.bin", tokenizer.Tokenizer([b"x"] * 70_000)
    np.array([3, 69_999, 65_536] * 10, "<u4").tofile(path)
    assert _stream(str(path), large).tolist() == [3, 69_999, 65_536] * 10
    np.array([3, 4, 5], "<u2").tofile(path)
    with pytest.raises(UserError, match="6 bytes; expected tokens of 4 bytes each"):
        _stream(str(path), large)
    small = tokenizer.Tokenizer([b"x"] * 65_536)
    assert _stream(str(path), small).tolist() == [3, 4, 5]


def test_a_boundary_that_an_import_names_is_a_token_of_the_vocabulary(tmp_path):
    (path := tmp_path / "tokenizer.json").write_text(
        json.dumps(spec() | dict(seqarch=dict(vocab=264, boundary=260, end=2)))
    )
    found = tokenizer.load(path)
    assert (found.vocab, found.boundary, found.end, found.last) == (264, 260, 2, 263)
    text = f"the then {END} the".encode()
    assert found.decode([260, *found.encode(text), 263]) == text
    assert list(found.symbols(np.array([260, 65, 260]))) == [256, 65, 256]
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / f"texts/{number}.txt").write_bytes(text)
    meta = prepare(str(tmp_path / "texts/*"), str(tmp_path / "out"), tokenizer_path=str(path))
    assert (meta["vocab"], meta["boundary"]) == (264, 260)
    split = tokens.open_split(tmp_path / "out", "train")
    assert (split.tokens == 260).sum() == meta["splits"]["train"]["documents"]
    assert split.read(split.documents[0]).tobytes() in TEXTS
    assert corpus.locate(str(tmp_path / "out"), 264, 260) == tmp_path / "out"
    with pytest.raises(UserError, match="model.boundary is 263, documents in .* begin with 260"):
        corpus.locate(str(tmp_path / "out"), 264)


@pytest.mark.parametrize(
    "changes", [dict(vocab=260), dict(boundary=264), dict(end=-1), dict(end="")]
)
def test_a_boundary_that_cannot_be_is_told(tmp_path, changes):
    (path := tmp_path / "tokenizer.json").write_text(
        json.dumps(spec() | dict(seqarch=dict(vocab=264, boundary=260, end=2) | changes))
    )
    with pytest.raises(UserError, match="is no tokenizer.json of Hugging Face's tokenizers"):
        tokenizer.load(path)
