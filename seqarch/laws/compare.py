"""How the clauses compare results, and the error that says which of them differ."""

import jax
import numpy as np

from seqarch.types import PyTree

TOLERANCE = 1e-4  # of the largest entry of what is compared, in float32


class LawBroken(AssertionError):
    """A clause of the law that does not hold, and by how much."""


def require_zero(otherwise: str, *derivatives: np.ndarray) -> None:
    """Raises LawBroken with the message `otherwise` unless all entries are exactly zero."""
    if not all(np.abs(each).max() <= 0 for each in derivatives):  # also where one is NaN
        raise LawBroken(otherwise)


def require_close(
    clause: str, expected: PyTree, given: PyTree, tolerance: float = TOLERANCE
) -> None:
    """Raises LawBroken unless each leaf of `given` is within `tolerance` of its largest entry."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(given), strict=True)
    for (path, a), b in pairs:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = np.abs(a - b).max(initial=0) / max(np.abs(a).max(initial=0), 1e-3)
        if not error <= tolerance:
            raise LawBroken(f"{clause}: {place(path)} differs by {error:.2g} of its size")


def require_close_rms(clause: str, expected: PyTree, given: PyTree, tolerance: float) -> None:
    """Raises LawBroken unless each leaf's root mean square error is within `tolerance`."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(expected), jax.tree.leaves(given), strict=True)
    for (path, a), b in pairs:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = np.sqrt(np.mean((a - b) ** 2) / max(np.mean(a**2), 1e-12))
        if not error <= tolerance:
            raise LawBroken(f"{clause}: {place(path)} is off by {error:.3f} of its rms")


def require_finite(clause: str, values: PyTree) -> None:
    """Raises LawBroken where a leaf holds an infinity or a NaN."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(values):
        if not np.isfinite(np.asarray(leaf, np.float64)).all():
            raise LawBroken(f"{clause}: {place(path)} is not finite")


def place(path: tuple) -> str:
    """The name of a leaf in a `Result`, or in the result of another function."""
    name = jax.tree_util.keystr(path, simple=True, separator=".")
    return _PLACES.get(".".join(name.split(".")[:2]), "") + name


_PLACES = {
    "values.0": "the output, ",
    "values.1": "the final state, ",
    "gradients.0": "the gradient of the parameters, ",
    "gradients.1": "the gradient of the inputs, ",
    "gradients.2": "the gradient of the initial state, ",
}
