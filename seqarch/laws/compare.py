"""Comparisons of results, and the error that names the result that differs."""

from collections.abc import Iterator

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


def require_close_rms(clause: str, expected: PyTree, given: PyTree, tolerance: float) -> None:
    """Raises LawBroken unless each leaf's rms error is within `tolerance` of its rms."""
    for path, a, b in _pairs(expected, given):
        if not a.size:
            continue
        error = np.sqrt(np.mean((a - b) ** 2) / max(np.mean(a**2), 1e-12))
        if not error <= tolerance:
            raise LawBroken(f"{clause}: {place(path)} is off by {error:.3f} of its rms")


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
