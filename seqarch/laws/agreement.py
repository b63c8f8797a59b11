"""The clauses that two ways to compute a mixer's function agree."""

from collections.abc import Callable
from itertools import pairwise

import jax.numpy as jnp

from seqarch.decoding import fork, reset
from seqarch.laws.compare import require_close
from seqarch.laws.readings import called, capacity, pieces, prefill, steps
from seqarch.laws.trial import Trial
from seqarch.mixers.base import select_rows


def readings_agree(
    trial: Trial,
    says: str,
    expected: Callable,
    given: Callable,
    *,
    documents: bool = False,
    padding: bool = False,
    cut: bool = False,
) -> None:
    """Requires two readings to have the same values and gradients on every example.

    Args:
      trial: of the mixer.
      says: the clause, for the error.
      expected: a reading of seqarch.laws.readings.
      given: the reading that is compared with it.
      documents: whether rows have several documents.
      padding: whether rows end in padding.
      cut: whether `given` cuts them.
    """
    for seed in range(trial.seeds):
        how = (seed, documents, padding)
        require_close(says, trial.result(expected, *how), trial.result(given, *how, cut))


def call_is_prefill(trial: Trial) -> None:
    """Requires a call to be prefill from an empty state, in values and gradients."""
    example = trial.last.unpadded()
    empty = example.mixer.init_state(len(example.x), capacity(trial.time))
    example, cotangent = example._replace(state=empty), trial.cotangent(state=0)
    results = (trial.evaluate(reading, example, cotangent) for reading in (pieces, called))
    expected, given = (
        {"values": result.values[:1], "gradients": result.gradients[:2]} for result in results
    )
    require_close("a call is prefill from an empty state", expected, given)


def static_splits_are_whole(trial: Trial) -> None:
    """Requires three prefills, of 1 token and of about half of the others each, to be one."""
    example, T = trial.last.unpadded(), trial.time
    starts = example.starts.at[2:, 0].set(True)  # a document may begin with the very first token
    whole = trial.evaluate(pieces, example._replace(starts=starts)).values
    outputs, state, cuts = [], example.state, (0, 1, 1 + (T - 1) // 2, T)
    for a, b in pairwise(cuts):
        x = example.x[:, a:b]
        y, state = trial.prefill(example.mixer, x, state, starts[:, a:b], None)
        outputs.append(y)
    says = f"prefill of {T} tokens cut before tokens {cuts[1]} and {cuts[2]}"
    require_close(says, {"values": whole}, {"values": (jnp.concatenate(outputs, 1), state)})


def states_can_be_reused(trial: Trial) -> None:
    """Requires the same results from a state that is used twice, forked, reordered or reset."""
    example = trial.last.unpacked().unpadded()
    B = len(example.x)
    rows = jnp.arange(B)[::-1].at[1].set(0)  # in another order, the first one twice
    empty, emptied = example.mixer.init_state(B, capacity(trial.time)), jnp.arange(B) % 2 == 0
    forked = example._replace(x=example.x[rows], state=fork(example.state, rows))
    partly = example._replace(state=reset(example.state, emptied, empty))
    for reading in (prefill, steps):
        once, again, from_forked, from_empty, from_reset = (
            trial.evaluate(reading, each).values
            for each in (example, example, forked, example._replace(state=empty), partly)
        )
        require_close("a state used twice", once, again)
        require_close("a forked state", fork(once, rows), from_forked)
        expected = select_rows(emptied, from_empty, once)
        require_close("a state reset in some rows", expected, from_reset)
