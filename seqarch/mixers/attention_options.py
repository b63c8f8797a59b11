"""Checks of the options of attention that must go together."""

import math

from seqarch.errors import UserError
from seqarch.ops.bias import FARTHEST
from seqarch.ops.rope_scaling import read_scaling


def check_heads(mixer: str, inner: int, heads: int, kv_heads: int) -> None:
    """Raises UserError unless heads make up the inner channels and keys' heads divide them."""
    if min(heads, kv_heads) < 1 or inner % heads or heads % kv_heads:
        raise UserError(
            f"{mixer}: dim {inner}, heads {heads}, kv_heads {kv_heads}; heads must divide "
            "dim, and kv_heads must divide heads"
        )


def rotated_channels(mixer: str, channels: int, rope: float | None, share: float = 1.0) -> int:
    """Returns how many of a head's channels are rotated.

    Raises:
      UserError: where the base of the frequencies cannot be used, or the channels are no pairs.
    """
    if rope is not None and not 1 < rope < math.inf:
        raise UserError(f"{mixer}: rope is {rope}; give a base above 1, or None for no positions")
    rotated = channels * share
    if rope is not None and (rotated % 2 or not 0 < rotated <= channels):
        raise UserError(
            f"{mixer}: rope_share {share} of a head's {channels} channels is rotated; with rope "
            "that must be an even number of channels"
        )
    return int(rotated)


def check_positions(
    rope: float | None,
    rope_scaling: str | None,
    alibi: bool,
    relative: int | None,
    sink: int | None,
) -> None:
    """Raises UserError unless there is one kind of position, and relative ones have buckets."""
    if rope_scaling is not None:
        read_scaling(rope_scaling)  # refuses what is none
        if rope is None:
            raise UserError(
                f"attention: rope_scaling is {rope_scaling} and rope is None; give the base that "
                "it scales, or rope_scaling=None"
            )
    if alibi and rope is not None:
        raise UserError(
            f"attention: alibi is True and rope is {rope}; give rope=None with alibi, since one "
            "kind of position is enough"
        )
    if relative is None:
        return
    if rope is not None or alibi or sink is not None:
        raise UserError(
            f"attention: relative is {relative}, rope is {rope}, alibi is {alibi} and sink is "
            f"{sink}; give rope=None, alibi=False and sink=None with relative, since one kind of "
            "position is enough"
        )
    if relative < 4 or relative % 4 or relative > 2 * FARTHEST:
        raise UserError(
            f"attention: relative is {relative}; give a multiple of 4 up to {2 * FARTHEST}, such "
            "as 32"
        )


def check_causal(causal: bool, window: int | None, forget: bool) -> None:
    """Raises UserError where attention to later tokens has a part that looks back alone."""
    if not causal and (window is not None or forget):
        raise UserError(
            f"attention: causal is False, window is {window} and forget is {forget}; give "
            "window=None and forget=False with causal=False, since both look back alone"
        )


def check_window(window: int | None, sink: int | None) -> None:
    """Raises UserError unless a window and a number of sinks go together."""
    if window is not None and window < 1:
        raise UserError(
            f"attention: window is {window}; give a number of tokens of at least 1, or None for all"
        )
    if sink is not None and (sink < 1 or window is None):
        raise UserError(
            f"attention: sink is {sink} and window is {window}; give a number of at least 1 with a "
            "window, or sink=None, since without a window all tokens stay visible"
        )
    if sink is not None and sink + window >= 2**31:
        raise UserError(f"attention: sink {sink} + window {window}; give a sum below 2^31")
