"""Parameters of tests that run one function with several options, most of them slow."""

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest


def product(*axes: Sequence[Any]) -> list:
    """Returns all combinations as parameters, slow but for those of `diagonal`."""
    quick = diagonal(*axes)
    return [
        pytest.param(*each, marks=() if each in quick else pytest.mark.slow)
        for each in itertools.product(*axes)
    ]


def diagonal(*axes: Sequence[Any]) -> list[tuple]:
    """Returns as few combinations as have each value of each axis at least once."""
    count = max(map(len, axes))
    return [tuple(axis[index % len(axis)] for axis in axes) for index in range(count)]


def slow_but(quick: Collection[str], names: Iterable[str]) -> list:
    """Returns `names` as parameters, slow but for those in `quick`."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]
