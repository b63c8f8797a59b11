"""When a probe's run ends early."""

import pytest

from configs import probes
from seqarch.config import parse
from seqarch.training.solved import is_solved

UNSCORED = dict(step=3)


def scored(*scores):
    return [dict(step=i, validation_accuracy=score) for i, score in enumerate(scores)]


@pytest.mark.parametrize(
    "rows, ends",
    [
        ([], False),
        (scored(1.0), False),
        (scored(1.0, 0.98), False),
        (scored(1.0, 0.98, 1.0), False),
        (scored(1.0, None), False),
        (scored(0.5, 0.99, 0.99), True),
        ([*scored(0.99), UNSCORED, *scored(0.99)], True),
        ([*scored(0.99, 0.99), UNSCORED], False),
    ],
)
def test_two_validations_in_a_row_end_a_run(rows, ends):
    given = probes.get_config("parity,gru")
    assert not is_solved(rows, parse(given))
    given.eval.stop_when_solved = True
    assert is_solved(rows, parse(given)) == ends
