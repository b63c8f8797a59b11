"""Comparisons of results, and the error that names the result that differs."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from seqarch.types import PyTree

TOLERANCE = 1e-4  # as a fraction of an array's largest entry, in float32


class LawBroken(AssertionError):
    """A clause of the law does not hold; the message says where and by how much."""


def require_zero(otherwise: str, *derivatives: np.ndarray) -> None:
    """Raises LawBroken with the message `otherwise` unless all entries are exactly zero."""
    if not all(np.abs(each).max() <= 0 for each in derivatives):  # NaN fails this, too
        raise LawBroken(otherwise)


def _pairs(expected: PyTree, given: PyTree) -> Iterator[tuple[tuple, np.ndarray, np.ndarray]]:
    """Yields (path, leaf of `expected`, leaf of `given`), in float64."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(given), strict=True)
    for (path, a), b in pairs:
        yield path, np.asarray(a, np.float64), np.asarray(b, np.float64)


def require_close(
    clause: str, expected: PyTree, given: PyTree, tolerance: float = TOLERANCE
) -> None:
    """Raises LawBroken unless each leaf's largest error is within `tolerance` of its maximum."""
    for path, a, b in _pairs(expected, given):
        error = np.abs(a - b).max(initial=0) / max(np.abs(a).max(initial=0), 1e-3)
        if not error <= tolerance:
            raise LawBroken(f"{clause}: {place(path)} differs by {error:.2g} of its size")


def require_close_rms(
    clause: str,
    expected: PyTree,
    given: PyTree,
    tolerance: float,
    rounded: Callable[[], PyTree] | None = None,
) -> None:
    """Raises LawBroken unless each leaf's rms error is within `tolerance` of its rms.

    Args:
      clause: what the message begins with.
      expected: the right values.
      given: the values that are judged.
      tolerance: as a fraction of a leaf's rms.
      rounded: returns the right values for rounded arguments; an error is also accepted where
        they have one half as large. It is called only where an error is not within `tolerance`.
    """
    reference: list[np.ndarray] = []
    for index, (path, a, b) in enumerate(_pairs(expected, given)):
        if _rms_error(a, b) <= tolerance:
            continue
        if rounded is not None:
            reference = reference or [np.asarray(x, np.float64) for x in jax.tree.leaves(rounded())]
            if _rms_error(a, b) <= 2 * _rms_error(a, reference[index]):
                continue
        raise LawBroken(f"{clause}: {place(path)} is off by {_rms_error(a, b):.3f} of its rms")


def _rms_error(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the rms of the difference as a fraction of that of `a`; 0 for empty arrays."""
    return np.sqrt(np.mean((a - b) ** 2) / max(np.mean(a**2), 1e-12)) if a.size else 0.0


def require_finite(clause: str, values: PyTree) -> None:
    """Raises LawBroken where a leaf has an infinity or a NaN."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(values):
        if not np.isfinite(np.asarray(leaf, np.float64)).all():
            raise LawBroken(f"{clause}: {place(path)} is not finite")


def place(path: tuple) -> str:
    """Returns the name of a leaf, given its path in a `Result` or another pytree."""
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    return _PLACES.get(".".join(name.split(".")[:2]), "") + name


_PLACES = {
    "values.0": "the output, ",
    "values.1": "the final state, ",
    "gradients.0": "the gradient of the parameters, ",
    "gradients.1": "the gradient of the inputs, ",
    "gradients.2": "the gradient of the initial state, ",
}
