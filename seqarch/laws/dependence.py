"""The clauses that outputs depend on every parameter and on earlier inputs of their row alone."""

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.laws.compare import LawBroken, require_close, require_finite, require_zero
from seqarch.laws.readings import called, prefill
from seqarch.laws.trial import Trial

LATER = "an output depends on a later input"
OTHER_ROW = "an output depends on another row of the batch"


def causal_and_rowwise(trial: Trial) -> None:
    """Requires outputs to depend on no later input and on no other row.

    The derivatives must be zero, and outputs must not change with such inputs.
    """
    row, token = np.arange(trial.time + 1)[:, None], np.arange(trial.time)[None]
    for rows in (row % 2 == 0, row % 2 == 1):
        others = _input_gradient(trial, rows & (token >= 0))[~rows[:, 0]]
        require_zero(OTHER_ROW, others)
    require_zero(LATER, _input_gradient(trial, token <= row)[token > row])
    example = trial.last.unpacked()

    def outputs(x) -> np.ndarray:
        return np.asarray(trial.evaluate(called, example._replace(x=x)).values[0])

    x, half = example.x, trial.time // 2
    expected, moved = outputs(x), 3 - 2 * x
    require_close(LATER, expected[:, :half], outputs(x.at[:, half:].set(moved[:, half:]))[:, :half])
    given = outputs(x.at[1].set(moved[1]))
    require_close(OTHER_ROW, np.delete(expected, 1, axis=0), np.delete(given, 1, axis=0))


def _input_gradient(trial: Trial, tokens: np.ndarray) -> np.ndarray:
    """Returns the gradient of outputs at `tokens` [B T] with respect to the inputs."""
    cotangent = trial.cotangent(tokens=tokens, state=0)
    gradient = trial.evaluate(called, trial.last.unpacked(), cotangent).gradients[1]
    require_finite("a call", {"gradients": (None, gradient)})
    return np.asarray(gradient)


def parameters_have_gradients(trial: Trial) -> None:
    """Requires a gradient that is not identically zero for each parameter."""
    results = [trial.result(prefill, seed) for seed in range(trial.seeds)]
    nonzero = [jax.tree.map(lambda g: bool(jnp.any(g != 0)), r.gradients[0]) for r in results]
    anywhere = jax.tree.map(lambda *each: any(each), *nonzero)
    for path, found in jax.tree_util.tree_leaves_with_path(anywhere):
        if not found:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise LawBroken(f"the gradient of {name} is zero in every entry")
