"""The clause that gradients are finite differences.

The function of a mixer that makes choices (`SequenceMixer.piecewise`) jumps where a choice changes,
and its gradient is that between the jumps. Such a mixer is judged row by row, so that a jump spoils
the difference of one row and one direction alone. A jump shows in the second difference

    f(x + h d) - 2 f(x) + f(x - h d),

which is a small part of the first one, f(x + h d) - f(x - h d), where f is smooth. Differences with
a jump are left out, and most must be without one. So neither a wrong gradient nor a function that
jumps everywhere can hide behind the choices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.laws.compare import LawBroken, place
from seqarch.laws.readings import cotangents, is_float, prefill
from seqarch.laws.trial import Trial
from seqarch.types import Array, PyTree

TOLERANCE = 0.02  # as a fraction of the norm of the finite differences
STEPS = (1e-2, 1e-3, 1e-4)  # as fractions of the leaf's rms
PIECEWISE_STEPS = (1e-4, 3e-5, 1e-3)  # likewise; few choices change in a small step
DIRECTIONS = 4  # finite differences per leaf
PIECEWISE_DIRECTIONS = 2  # likewise, each with one difference per row
SMOOTH = 0.5  # part of the differences of a piecewise function that must be without a jump


def gradients_are_differences(trial: Trial) -> None:
    """Requires each leaf's gradient to agree with central differences of prefill.

    Several random directions of a leaf are compared as one vector, so that a single derivative
    close to zero does not decide.
    """
    example = trial.last.unpacked().unpadded()
    rows, piecewise = len(example.x), example.mixer.piecewise
    # Each part is a sum over some rows of the outputs and the state, with random weights.
    parts = np.eye(rows)[::2] if piecewise else np.ones((1, rows))
    results = [trial.evaluate(prefill, example, trial.cotangent(rows=part)) for part in parts]
    weights = cotangents(_floating(results[0].values), trial.cotangent())
    weights = [np.asarray(each, np.float64) for each in weights]
    leaves, structure = jax.tree.flatten(example[:3])
    paths = jax.tree_util.tree_leaves_with_path({"gradients": example[:3]})

    def values(index: int, leaf: np.ndarray) -> np.ndarray:
        given = structure.unflatten([*leaves[:index], jnp.asarray(leaf), *leaves[index + 1 :]])
        outputs = _floating(trial.prefill(*given, None, example.lengths))
        by_row = [(w * np.asarray(y)).reshape(rows, -1).sum(1) for w, y in zip(weights, outputs)]
        return parts @ sum(by_row)

    for index, gradients in enumerate(zip(*(jax.tree.leaves(each.gradients) for each in results))):
        if is_float(leaves[index]) and leaves[index].size:
            leaf, name = np.asarray(leaves[index]), place(paths[index][0])
            _compare(name, lambda leaf: values(index, leaf), leaf, gradients, piecewise)  # noqa: B023


def _compare(
    name: str,
    values: Callable[[np.ndarray], np.ndarray],
    leaf: np.ndarray,
    gradients: tuple[Array, ...],
    piecewise: bool,
) -> None:
    """Compares gradients with central differences, for each step until one agrees.

    A function with kinks, such as a ReLU, agrees only for small steps, which cross few of them, and
    so does one that is strongly curved, such as a norm of few channels.
    """
    size, whys = max(float(np.sqrt(np.mean(leaf**2))), 0.1), []
    steps, count = (PIECEWISE_STEPS, PIECEWISE_DIRECTIONS) if piecewise else (STEPS, DIRECTIONS)
    for step in steps:
        given = _directions(values, leaf, gradients, np.float32(step * size), count)
        differences, curvatures, products = given
        smooth = np.ones(differences.shape, bool)
        if piecewise:
            smooth = np.abs(curvatures) <= TOLERANCE * np.median(np.abs(differences)) + 0.1
        error = np.linalg.norm((differences - products)[smooth])
        norm = np.linalg.norm(differences[smooth])
        if smooth.mean() < SMOOTH:
            whys.append((np.inf, f"jumps in {1 - smooth.mean():.0%} of the finite differences"))
        elif error <= TOLERANCE * norm + 1e-3:
            return
        else:
            part = error / max(norm, 1e-9)
            whys.append((part, f"differs from finite differences by {part:.2g}"))
    raise LawBroken(f"{name} {min(whys)[1]}")


def _directions(
    values: Callable[[np.ndarray], np.ndarray],
    leaf: np.ndarray,
    gradients: tuple[Array, ...],
    step: np.float32,
    count: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns first and second differences in `count` directions, and products with gradients.

    Each is [count, parts], divided by the step as a first difference is.
    """
    random, here = np.random.default_rng(0), values(leaf)
    found = []
    for _ in range(count):
        direction = random.standard_normal(leaf.shape).astype(np.float32)
        after, before = values(leaf + step * direction), values(leaf - step * direction)
        products = [(np.asarray(each, np.float64) * direction).sum() for each in gradients]
        found.append(((after - before) / (2 * step), (after + before - 2 * here) / (2 * step)))
        found[-1] += (np.array(products),)
    return tuple(np.stack(each) for each in zip(*found))


def _floating(values: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(values) if is_float(leaf)]
