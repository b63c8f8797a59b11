"""A text in the place of Shakespeare's, so that probes of a text need no network."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from seqarch.tasks.text import corpus

SIZES = {"train": 4000, "validation": 2000, "test": 150}  # bytes; the last is shorter than a row
WORDS = ["to", "be", "or", "not", "1601", "\n", "The key of ", "The key of AA is 0", " is "]


def works(cache: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yields a document for each split: random words, some of them those of a fact."""
    del cache
    rng = np.random.default_rng(0)
    for split, size in SIZES.items():
        yield split, split, " ".join(rng.choice(WORDS, size)).encode()[:size]


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """A user's cache in which the default text is that of `works`."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory))
        patch.setattr(corpus, "_works", works)
        corpus.locate("shakespeare")
    return directory


@pytest.fixture(autouse=True)
def own_text(cache, monkeypatch) -> None:
    """Gives this cache to tests and to the programs that they start."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
