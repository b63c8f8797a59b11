"""Grids of parameters have every combination, and every value in a quick test."""

import itertools

import pytest

from tests.grids import diagonal, product


@pytest.mark.parametrize("sizes", [(3,), (4, 2), (2, 3), (2, 2, 3)])
def test_every_combination_is_there_and_every_value_is_quick(sizes):
    axes = [[f"{axis}{value}" for value in range(size)] for axis, size in enumerate(sizes)]
    given = product(*axes)
    assert [each.values for each in given] == list(itertools.product(*axes))
    quick = [each.values for each in given if not each.marks]
    assert sorted(quick) == sorted(diagonal(*axes)) and len(quick) == max(sizes)
    assert set().union(*quick) == set().union(*axes)
