"""The tokenizer of an imported run says every byte of a text, and no more."""

import json

import pytest

from seqarch.errors import UserError
from seqarch.pretrained.vocabulary import run_tokenizer
from seqarch.tasks.text import tokenizer

SPACE = "\u2581"
TEXT = "the theory\n of t\u00e9 ".encode()


def spec(**parts):
    """A BPE with fallback to bytes, as those of Llama 2 and Mistral."""
    vocab = {f"<0x{value:02X}>": value for value in range(256)}
    for piece in (SPACE, *"thetory", "th", "the", SPACE + "the"):
        vocab.setdefault(piece, len(vocab))
    merges = ["t h", "th e", f"{SPACE} the"]
    model = dict(type="BPE", vocab=vocab, merges=merges, byte_fallback=True)
    none = dict(version="1.0", truncation=None, padding=None, added_tokens=[], post_processor=None)
    return none | dict(model=model, normalizer=None, pre_tokenizer=None, decoder=None) | parts


REPLACE = dict(type="Replace", pattern=dict(String=" "), content=SPACE)
PREPEND = dict(type="Prepend", prepend=SPACE)
DECODER = dict(
    type="Sequence",
    decoders=[
        dict(type="Replace", pattern=dict(String=SPACE), content=" "),
        dict(type="ByteFallback"),
        dict(type="Fuse"),
        dict(type="Strip", content=" ", start=1, stop=0),
    ],
)
METASPACE = dict(type="Metaspace", replacement=SPACE, prepend_scheme="first", split=False)
KINDS = {
    "prepend": dict(normalizer=dict(type="Sequence", normalizers=[PREPEND, REPLACE])),
    "metaspace": dict(pre_tokenizer=dict(type="Sequence", pretokenizers=[METASPACE])),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_space_is_put_before_a_text(kind, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(spec(decoder=DECODER, **KINDS[kind])))
    with pytest.raises(UserError, match="makes .* of .*; bits per byte need a tokenizer"):
        tokenizer.load(path).encode(TEXT)
    path.write_text(run_tokenizer(path, 300, 1, 2))
    found = tokenizer.load(path)
    assert (found.vocab, found.boundary, found.end) == (300, 1, 2)
    tokens = found.encode(TEXT)
    assert found.decode(tokens) == TEXT and found.sizes[tokens].sum() == len(TEXT)
    names = {index: piece for piece, index in spec()["model"]["vocab"].items()}
    assert [names[token] for token in tokens[:2].tolist()] == ["the", SPACE + "the"]


def test_more_tokens_than_the_model_has_are_a_line(tmp_path):
    (path := tmp_path / "tokenizer.json").write_text(json.dumps(spec()))
    with pytest.raises(UserError, match="its config.json has a vocab_size of 99"):
        run_tokenizer(path, 99, 1, 2)
