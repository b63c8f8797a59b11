"""The best of a few rules that read no association, with whose accuracy a model's is compared.

A rule gives the same answer to every question, or repeats a token of the row by its place or by how
often it occurs. A model that is no better has not been shown to read more.
"""

import numpy as np

from seqarch.tasks.draws import occurrences
from seqarch.tasks.rows import Rows
from seqarch.types import Bool, Int


def trivial_accuracy(rows: Rows) -> float:
    """Returns the accuracy at scored positions of the rule that is the best for these rows."""
    targets = rows.targets[rows.scored]
    answers = trivial_answers(rows)
    return max(float((each[rows.scored] == targets).mean()) for each in answers.values())


def trivial_answers(rows: Rows) -> dict[str, Int[np.ndarray, "B T"]]:
    """Returns what each rule answers at every position, by the rule's name.

    Answer tokens are those that are a target in any of the rows. Up to a position, that included:

      constant: the commonest target of all rows.
      first: the row's first answer token.
      last: the row's last answer token.
      commonest: the row's commonest answer token; of several, the first that occurred so often.

    Where a row has no answer token yet, every rule answers with the commonest target.
    """
    values, counts = np.unique(rows.targets[rows.scored], return_counts=True)
    constant = np.full_like(rows.tokens, values[counts.argmax()])
    is_answer = np.isin(rows.tokens, values)
    most = np.maximum.accumulate(np.where(is_answer, occurrences(rows.tokens), 0), axis=1)
    rises = np.diff(most, axis=1, prepend=0) > 0
    chosen = {"first": rises & (most == 1), "last": is_answer, "commonest": rises}
    repeated = {name: _repeat(rows.tokens, each, constant) for name, each in chosen.items()}
    return {"constant": constant, **repeated}


def _repeat(
    tokens: Int[np.ndarray, "B T"], chosen: Bool[np.ndarray, "B T"], default: Int[np.ndarray, "B T"]
) -> Int[np.ndarray, "B T"]:
    """Returns the last chosen token up to each position, and the default before the first one."""
    place = np.maximum.accumulate(np.where(chosen, np.arange(tokens.shape[1]), -1), axis=1)
    found = np.take_along_axis(tokens, np.maximum(place, 0), axis=1)
    return np.where(place < 0, default, found)
