"""Parameters of tests that run one function with several options, most of them slow."""

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest


def product(*axes: Sequence[Any]) -> list:
    """Returns all combinations as parameters, slow but for those of `diagonal`."""
    quick = diagonal(*axes)
    return [
        pytest.param(*each) if each in quick else slow(*each) for each in itertools.product(*axes)
    ]


def diagonal(*axes: Sequence[Any]) -> list[tuple]:
    """Returns as few combinations as have each value of each axis at least once."""
    count = max(map(len, axes))
    return [tuple(axis[index % len(axis)] for axis in axes) for index in range(count)]


def slow(*values: Any) -> Any:
    """Returns the values of a test's parameters, slow."""
    return pytest.param(*values, marks=pytest.mark.slow)


def slow_but(quick: Collection[str], names: Iterable[str]) -> list:
    """Returns `names` as parameters, slow but for those in `quick`."""
    return [name if name in quick else slow(name) for name in names]
