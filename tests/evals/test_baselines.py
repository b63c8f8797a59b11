"""The baselines: a proper and causal distribution that equals its definition, and scores of exactly
the given bytes.
"""

from collections import Counter, defaultdict

import numpy as np
import pytest

from seqarch.errors import UserError
from seqarch.evals.baselines import BASELINES, NGram
from seqarch.records import Results, Source
from seqarch.tasks.text import tokens, writer
from seqarch.tasks.text.tokenizer import BOUNDARY

RNG = np.random.default_rng(0)
WORDS = [
    RNG.choice([b"a", b"b", b"c", b"d", b" "], RNG.integers(2, 7)).tobytes() for _ in range(30)
]


def _text(size, seed):
    return b" ".join(np.random.default_rng(seed).choice(np.array(WORDS, object), size))


TRAIN = [_text(60, 1), _text(60, 2), b"a\xffb\xffb"]
HELD_OUT = [_text(40, 3), _text(20, 4) + bytes([255, 254]), b"ea"]


def _stream(documents):
    return np.concatenate([part for text in documents for part in ([BOUNDARY], _array(text))])


def _splits(directory, train, held_out):
    documents = [("train", str(n), text) for n, text in enumerate(train)]
    documents += [("validation", str(n), text) for n, text in enumerate(held_out)]
    writer.write(directory, iter([*documents, ("test", "0", b"x")]), {}, replace=True)
    return tokens.open_split(directory, "train"), tokens.open_split(directory, "validation")


def _array(text):
    return np.frombuffer(text, np.uint8)


def _definition(documents, context):
    """Interpolated Kneser-Ney over dictionaries: p(history, byte)."""
    padded = [(BOUNDARY,) * context + tuple(text) for text in documents]
    levels = [
        Counter(text[i - context : i + 1] for text in padded for i in range(context, len(text)))
    ]
    for _ in range(context):
        levels.insert(0, Counter(gram[1:] for gram in levels[0]))
    tables = []
    for grams in levels:
        followers, of = defaultdict(dict), Counter(grams.values())
        for gram, count in grams.items():
            followers[gram[:-1]][gram[-1]] = count
        tables.append((followers, of[1] / (of[1] + 2 * of[2]) if of[1] else 0.5))

    def p(history, byte):
        value = 1 / 256
        for order, (followers, discount) in enumerate(tables):
            seen = followers.get(tuple(history[len(history) - order :]))
            if seen:
                count = max(seen.get(byte, 0) - discount, 0)
                value = (count + discount * len(seen) * value) / sum(seen.values())
        return value

    return p


@pytest.mark.parametrize("context", [0, 1, 3])
def test_probabilities_are_those_of_the_definition(context):
    model, p = NGram.fit(_stream(TRAIN), context), _definition(TRAIN, context)
    for text in HELD_OUT:
        padded = (BOUNDARY,) * context + tuple(text)
        expected = [p(padded[i : i + context], padded[i + context]) for i in range(len(text))]
        np.testing.assert_allclose(model(_array(text)), expected, rtol=1e-12)


@pytest.mark.parametrize("context", [0, 2, 6])
@pytest.mark.parametrize("history", [b"", TRAIN[0][:9], b"zz\xffzz"])
def test_probabilities_of_the_next_byte_sum_to_one(context, history):
    model = NGram.fit(_stream(TRAIN), context)
    probabilities = [model(_array(history + bytes([byte])))[-1] for byte in range(256)]
    assert min(probabilities) > 0
    np.testing.assert_allclose(sum(probabilities), 1, rtol=1e-12)


def test_the_block_size_of_fitting_does_not_matter():
    stream = _stream(TRAIN)
    whole, blocks = NGram.fit(stream, 3), NGram.fit(stream, 3, block=5)
    for expected, order in zip(whole.orders, blocks.orders, strict=True):
        np.testing.assert_array_equal(order.grams, expected.grams)
        np.testing.assert_array_equal(order.before, expected.before)
        assert order.discount == expected.discount


def test_a_context_that_does_not_fit_a_key_is_refused():
    with pytest.raises(UserError, match="give 0 to 6"):
        NGram.fit(_stream(TRAIN), 7)


def measured(name, splits, **options) -> Results:
    return Results(Source(name, "baseline"), ()).with_found(BASELINES[name](*splits, **options))


def by_document(results: Results) -> dict[str, float]:
    (found,) = results.all("quality", "document_bits_per_byte")
    return dict(zip(found.at["document"], found.value, strict=True))


@pytest.mark.parametrize("name", BASELINES)
def test_each_document_is_scored_alone_and_only_to_the_limit(tmp_path, name):
    def measure(held_out, **options):
        return measured(name, _splits(tmp_path / "out", TRAIN, held_out), **options)

    whole = measure(HELD_OUT)
    sizes = [len(text) for text in HELD_OUT]
    assert whole.value("quality", "bytes") == sum(sizes)
    (each,) = whole.all("quality", "document_bytes")
    assert each.value == sizes and each.at == {"document": list(by_document(whole))}
    mean = np.average(list(by_document(whole).values()), weights=sizes)
    np.testing.assert_allclose(whole.value("quality", "bits_per_byte"), mean)
    assert by_document(measure(HELD_OUT[::-1]))["0"] == by_document(whole)["2"]
    assert measure(HELD_OUT, limit=10) == measure([text[:10] for text in HELD_OUT])
    assert whole.fact("quality", "train_bytes") == sum(map(len, TRAIN))
    assert whole.value("memory", "params_bytes") > 0


@pytest.mark.parametrize("name", BASELINES)
def test_noise_costs_its_entropy_and_a_copy_less(tmp_path, name):
    noise = RNG.integers(0, 16, (3, 20000), np.uint8)
    works = [row.tobytes() for row in noise]
    copy, fresh = by_document(
        measured(name, _splits(tmp_path / "out", works[:2], works[1:]))
    ).values()
    assert fresh > 3.99
    if name == "ngram-0":
        np.testing.assert_allclose([copy, fresh], 4, atol=0.01)
    else:
        assert copy < fresh


def test_xz_reaches_back_to_the_first_work(tmp_path):
    works = [RNG.integers(0, 256, 50000, np.uint8).tobytes() for _ in range(3)]
    found = measured("xz", _splits(tmp_path / "out", works, works[:1]))
    assert found.value("quality", "bits_per_byte") < 0.1
