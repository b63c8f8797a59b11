"""Frequencies of rotary positions for more tokens than a model was first trained on.

A scaling is a text, a kind with its numbers: a factor s, and the tokens L of the first training.
f_i is the frequency of channel pair i of n, in radians a token:

    linear:s             f / s
    llama3:s:low:high:L  f / s for pairs that make fewer than `low` turns in L tokens, f for those
                         that make more than `high`, and between them a mean, linear in the turns
    yarn:s:fast:slow:L:m f for pairs that make more than `fast` turns in L tokens, f / s for those
                         that make fewer than `slow`, and between them a mean, linear in the pair's
                         number; queries and keys are multiplied by m

Source: Chen et al. 2023, "Extending context window of large language models via positional
interpolation" (linear); Grattafiori et al. 2024, "The Llama 3 herd of models", and its code
(llama3); Peng et al. 2023, "YaRN", sections 3.2 and 3.4 (yarn, with bounds at whole pairs as in its
code).
"""

import math

import numpy as np

from seqarch.errors import UserError

SIZES = {"linear": 1, "llama3": 4, "yarn": 5}  # numbers of each kind
FORMATS = "linear:FACTOR, llama3:FACTOR:LOW:HIGH:LENGTH or yarn:FACTOR:FAST:SLOW:LENGTH:SCALE"


def read_scaling(text: str) -> tuple[str, tuple[float, ...]]:
    """Returns the kind and the numbers of a scaling; raises UserError where it is none."""
    kind, *given = text.split(":")
    try:
        numbers = tuple(map(float, given))
    except ValueError:
        numbers = ()
    finite = all(0 < number < math.inf for number in numbers)
    if SIZES.get(kind) != len(numbers) or not finite:
        raise UserError(f"rope_scaling is {text!r}; give {FORMATS}, with numbers above 0")
    slow, fast = {"linear": (0, 1), "llama3": numbers[1:3]}.get(kind, numbers[2:0:-1])
    if slow >= fast:
        raise UserError(f"rope_scaling is {text!r}; give LOW below HIGH, and FAST above SLOW")
    return kind, numbers


def frequencies(base: float, pairs: int, scaling: str | None = None) -> np.ndarray:
    """Returns the frequency base^(-i/n), scaled, of each channel pair i < n, in radians a token."""
    f = float(base) ** (-np.arange(pairs) / pairs)
    if scaling is None:
        return f
    kind, (factor, *numbers) = read_scaling(scaling)
    if kind == "linear":
        return f / factor
    if kind == "llama3":
        low, high, length = numbers
        kept = np.clip((length * f / (2 * np.pi) - low) / (high - low), 0, 1)
    else:
        fast, slow, length, _ = numbers
        first, last = (_pair(turns, base, pairs, length) for turns in (fast, slow))
        first, last = max(math.floor(first), 0), min(math.ceil(last), 2 * pairs - 1)
        kept = 1 - np.clip((np.arange(pairs) - first) / max(last - first, 1e-3), 0, 1)
    return f * kept + f / factor * (1 - kept)


def magnitude(scaling: str | None) -> float:
    """Returns what rotated queries and keys are multiplied by."""
    kind, numbers = (None, ()) if scaling is None else read_scaling(scaling)
    return numbers[-1] if kind == "yarn" else 1.0


def _pair(turns: float, base: float, pairs: int, length: float) -> float:
    """Returns the number of the channel pair that makes so many turns in `length` tokens."""
    return pairs * math.log(length / (2 * math.pi * turns)) / math.log(base)
