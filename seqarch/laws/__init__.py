"""The law of sequence mixers as functions: call `check` on a mixer of your own.

    laws.check(functools.partial(MyMixer, 16))  # raises LawBroken, which names the broken clause
    for clause in laws.clauses(functools.partial(MyMixer, 16)):
        clause.test()  # one by one, as scripts/check_mixer.py does

Most clauses say that two readings of (mixer, x, state) agree: in outputs, in final states, and,
under random cotangents, in the gradients of parameters, inputs and floating leaves of the initial
state.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from seqarch.laws import agreement, dependence, differences, numerics, structure
from seqarch.laws.compare import LawBroken
from seqarch.laws.readings import pieces, prefill, steps
from seqarch.laws.trial import Trial
from seqarch.mixers.base import SequenceMixer

__all__ = ["Clause", "LawBroken", "check", "clauses"]


class Clause(NamedTuple):
    """A clause of the law.

    name: one word
    says: what must hold
    test: raises LawBroken where it does not hold
    """

    name: str
    says: str
    test: Callable[[], None]


def check(
    make: Callable[..., SequenceMixer], *, dim: int = 16, time: int = 21, seeds: int = 2
) -> None:
    """Raises LawBroken unless a mixer obeys every clause.

    Args:
      make: `make(dtype=..., rngs=...)` constructs the mixer.
      dim: the mixer's width.
      time: tokens of the sequences, at least 4. Sequences of more than 8 tokens, and no multiple of
        8, cross chunks and blocks, which are at most 8 long here.
      seeds: number of examples on which readings are compared.
    """
    for clause in clauses(make, dim=dim, time=time, seeds=seeds):
        clause.test()


def clauses(
    make: Callable[..., SequenceMixer], *, dim: int = 16, time: int = 21, seeds: int = 2
) -> list[Clause]:
    """Returns the law's clauses for a mixer; the arguments are those of `check`."""
    trial = Trial(make, dim, time, seeds)
    return [Clause(name, says, partial(test, trial)) for name, says, test in LAW]


def _agree(name: str, says: str, expected: Callable, given: Callable, **how: bool) -> tuple:
    """Returns the entry of LAW that two readings agree."""
    test = partial(agreement.readings_agree, says=says, expected=expected, given=given, **how)
    return name, says, test


LAW = (
    (
        "carry",
        "the state is a carry: structure, shapes and dtypes stay",
        structure.state_is_a_carry,
    ),
    ("causal", "no output depends on a later input or another row", dependence.causal_and_rowwise),
    _agree("step", "a scan of step is prefill", prefill, steps),
    _agree("halves", "prefill of a, then of b, is prefill of ab", prefill, pieces, cut=True),
    _agree("lengths", "padding is nothing", steps, pieces, padding=True),
    _agree("starts", "packed documents are separate", steps, pieces, documents=True, padding=True),
    ("call", "a call is prefill from an empty state", agreement.call_is_prefill),
    ("splits", "prefill may be cut anywhere", agreement.static_splits_are_whole),
    ("bfloat16", "bfloat16 is close to float32", numerics.bfloat16_is_close),
    ("bfloat16_step", "steps in bfloat16 do not drift", numerics.bfloat16_steps_are_prefill),
    ("long", "beyond a chunk or block, the readings agree", numerics.long_readings_agree),
    ("axes", "every parameter names its axes", structure.parameters_name_axes),
    ("used", "every parameter has a gradient", dependence.parameters_have_gradients),
    ("differences", "gradients are finite differences", differences.gradients_are_differences),
    ("large", "inputs 30 times larger stay finite", numerics.large_inputs_are_finite),
    ("reuse", "a state can be reused, forked, reordered and reset", agreement.states_can_be_reused),
)
