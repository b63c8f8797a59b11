"""Checks a mixer: the clauses of the law, the size of its state, and whether it learns."""

import inspect
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import laws
from seqarch.costs.memory import tree_bytes
from seqarch.errors import UserError
from seqarch.laws.hints import HINTS
from seqarch.laws.learning import WIDTH, check_learning
from seqarch.mixers import resolve_mixer
from seqarch.patterns import parse_pattern
from seqarch.report.formats import format_bytes

CONTEXTS = (1024, 65536)  # tokens after which the state is measured


class Check(NamedTuple):
    """One thing that a mixer must do.

    Attributes:
      says: what must hold.
      hint: what to look at where it does not.
      test: returns what it found in words, or None; raises what the mixer does wrong.
    """

    says: str
    hint: str
    test: Callable[[], str | None]


def check_mixer(pattern: str, dim: int, time: int, steps: int) -> bool:
    """Prints a line for each check of a mixer and returns whether all hold.

    Args:
      pattern: the mixer with its options, as in a layer pattern.
      dim: the width that the law is checked at.
      time: tokens of the law's sequences.
      steps: training steps of the last check.

    Raises:
      UserError: where the pattern is not one mixer, and for options that it does not take.
    """
    layers = parse_pattern(pattern)
    if len(layers) > 1:
        raise UserError(f"{pattern!r} is {len(layers)} mixers; give one")
    mixer, options = resolve_mixer(layers[0].mixer), dict(layers[0].options)
    make = partial(mixer, dim, **options)
    clauses = laws.clauses(make, dim=dim, time=time)
    print(f"{layers[0]}: the law at width {dim} over {time} tokens", flush=True)
    checks = [Check(clause.says, HINTS[clause.name], clause.test) for clause in clauses]
    checks += _further_checks(pattern, partial(mixer, WIDTH, **options), steps)
    held = []
    for check in checks:
        why = "Probably" if all(held) else "If that does not follow from what fails above"
        held.append(_holds(check, f"{why}: {check.hint}", mixer))
    end = "" if all(held) else "; begin with the first that fails"
    print(f"{sum(held)} of {len(held)} hold{end}")
    return all(held)


def _further_checks(pattern: str, make: Callable[..., nnx.Module], steps: int) -> Iterator[Check]:
    """Yields the checks beside the law."""
    yield Check("its state can be measured", "look at init_state", partial(state_text, make))
    hint = "look for gradients that vanish or are not finite"
    yield Check("it learns", hint, partial(check_learning, pattern, steps))


def _holds(check: Check, why: str, mixer: type) -> bool:
    """Prints in one line whether a check holds; where it does not, how and why."""
    try:
        found = check.test()
    except UserError:
        raise
    except laws.LawBroken as broken:
        reason = f"{str(broken).removeprefix(f'{check.says}: ')}. {why}."
    except Exception as error:  # noqa: BLE001 a mixer may fail in any way
        line = (str(error).strip() or "without a word").splitlines()[0]
        reason = f"{type(error).__name__}{_place(error, mixer)}: {line}"
    else:
        print(f"holds  {check.says}" + (f": {found}" if found else ""), flush=True)
        return True
    print(f"FAILS  {check.says}: {reason}", flush=True)
    return False


def _place(error: Exception, mixer: type) -> str:
    """Returns the last line of the mixer's file in an error's traceback, or ""."""
    file = inspect.getsourcefile(mixer)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    return f" in line {lines[-1]} of {file}" if lines else ""


def state_text(make: Callable[..., nnx.Module]) -> str:
    """Returns the bytes of one sequence's state after each of CONTEXTS, in words."""
    mixer = make(dtype=jnp.float32, rngs=nnx.Rngs(0))
    states = [jax.eval_shape(partial(mixer.init_state, 1, context)) for context in CONTEXTS]
    sizes = [tree_bytes(state) for state in states]
    shown = ", ".join(
        f"{format_bytes(size)} after {tokens:,} tokens"
        for size, tokens in zip(sizes, CONTEXTS, strict=True)
    )
    return f"{shown}, at width {WIDTH}; {'constant' if len(set(sizes)) == 1 else 'it grows'}"
