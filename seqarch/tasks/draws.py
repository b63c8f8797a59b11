"""Functions on rows of symbols that several probes share."""

import numpy as np

from seqarch.types import Bool, Int


def distinct(rng: np.random.Generator, count: int, size: int, below: int) -> Int[np.ndarray, "B n"]:
    """Returns rows of `size` different numbers in [0, below), in random order.

    Source: Bentley and Floyd 1987, "A sample of brilliance".
    """
    chosen = np.full((count, size), -1)
    for place, top in enumerate(range(below - size, below)):
        drawn = rng.integers(top + 1, size=count)
        taken = (chosen == drawn[:, None]).any(axis=1)
        chosen[:, place] = np.where(taken, top, drawn)
    return rng.permuted(chosen, axis=1)


def one_of(
    rng: np.random.Generator, symbols: Int[np.ndarray, "B n"], below: int
) -> Int[np.ndarray, "B"]:
    """Returns one of the different symbols in [0, below) of each row, all equally likely."""
    present = np.zeros((len(symbols), symbols.max() + below), bool)
    present[np.arange(len(symbols))[:, None], symbols] = True
    return np.where(present[:, :below], rng.random((len(symbols), below)), -1).argmax(axis=1)


def previous(symbols: Int[np.ndarray, "B n"]) -> Int[np.ndarray, "B n"]:
    """Returns the place of the last equal symbol before each one; -1 where it is new."""
    order, again = _sorted(symbols)
    found = np.full(symbols.shape, -1)
    before = np.where(again, np.roll(order, 1, axis=1), -1)
    np.put_along_axis(found, order, before, axis=1)
    return found


def first(symbols: Int[np.ndarray, "B n"]) -> Int[np.ndarray, "B n"]:
    """Returns the place of the first symbol in the row that equals each one."""
    order, again = _sorted(symbols)
    found = np.empty_like(order)
    np.put_along_axis(found, order, np.take_along_axis(order, _starts(again), axis=1), axis=1)
    return found


def occurrences(symbols: Int[np.ndarray, "B n"]) -> Int[np.ndarray, "B n"]:
    """Returns how often each symbol has occurred in its row, up to it and with it."""
    order, again = _sorted(symbols)
    found = np.empty_like(order)
    np.put_along_axis(found, order, np.arange(1, 1 + order.shape[1]) - _starts(again), axis=1)
    return found


def _starts(again: Bool[np.ndarray, "B n"]) -> Int[np.ndarray, "B n"]:
    """Returns where in the order of symbols those that equal each one begin."""
    return np.maximum.accumulate(np.where(again, 0, np.arange(again.shape[1])), axis=1)


def _sorted(
    symbols: Int[np.ndarray, "B n"],
) -> tuple[Int[np.ndarray, "B n"], Bool[np.ndarray, "B n"]]:
    """Returns places in the order of symbols, and whether the one before has the same symbol."""
    order = np.argsort(symbols, axis=1, kind="stable")
    found = np.take_along_axis(symbols, order, axis=1)
    again = np.zeros(symbols.shape, bool)
    again[:, 1:] = found[:, 1:] == found[:, :-1]
    return order, again
