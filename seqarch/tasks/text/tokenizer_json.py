"""The vocabulary of a Hugging Face tokenizer.json, read as data."""

import re
from collections.abc import Iterator

MOST_TOKENS = 1 << 24  # tokens of a vocabulary; a file that claims more would fill the memory


def token_bytes(spec: dict) -> list[bytes]:
    """Returns the bytes of each token.

    Special tokens have none: `encode` never makes them from text, and in a .bin file they stand for
    no text.
    """
    parts = [*_parts(spec.get("decoder") or {}), *_parts(spec.get("pre_tokenizer") or {})]
    kinds = {part["type"] for part in parts}
    special = {token["id"] for token in spec.get("added_tokens", ()) if token.get("special")}
    added = {token["id"] for token in spec.get("added_tokens", ())}
    found = list(entries(spec))
    for content, index in found:
        if not (isinstance(content, str) and type(index) is int and 0 <= index < MOST_TOKENS):
            raise ValueError(f"no token: {content!r} {index!r}")
    table = [b""] * (1 + max(index for _, index in found))
    for content, index in found:
        if index not in special:
            table[index] = content.encode() if index in added else _bytes(content, kinds)
    return table


def entries(spec: dict) -> Iterator[tuple[str, int]]:
    """Yields (content, token) for the model's vocabulary and for added tokens."""
    vocab = spec["model"]["vocab"]
    if isinstance(vocab, list):  # of a unigram model: [[content, score], ...]
        yield from ((entry[0], token) for token, entry in enumerate(vocab))
    else:
        yield from vocab.items()
    yield from ((token["content"], token["id"]) for token in spec.get("added_tokens", ()))


def _bytes(content: str, kinds: set[str]) -> bytes:
    """Returns the bytes of an entry of the vocabulary, by the kinds of the tokenizer's parts."""
    if "ByteLevel" in kinds:
        known = {c: bytes([_BYTE_LEVEL[c]]) for c in content if c in _BYTE_LEVEL}
        return b"".join(known.get(c) or c.encode() for c in content)
    if "ByteFallback" in kinds and re.fullmatch("<0x[0-9A-F]{2}>", content):
        return bytes([int(content[3:5], 16)])
    if {"Metaspace", "Replace"} & kinds:
        content = content.replace("\u2581", " ")
    return content.encode()


def _parts(part: dict) -> Iterator[dict]:
    """Yields a decoder or pre-tokenizer, or those in a sequence of them."""
    if "type" in part:
        yield part
    for inner in part.get("decoders", part.get("pretokenizers", ())):
        yield from _parts(inner)


def _byte_level() -> dict[str, int]:
    """Returns the byte of each character of a byte-level vocabulary.

    Printable bytes are themselves, the others the characters from 256 on.

    Source: Radford et al. 2019, `bytes_to_unicode` of GPT-2's encoder.
    """
    prints = [*range(ord("!"), 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [value for value in range(256) if value not in prints]
    found = {chr(value): value for value in prints}
    return found | {chr(256 + index): value for index, value in enumerate(hidden)}


_BYTE_LEVEL = _byte_level()
