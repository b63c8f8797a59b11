"""Rotary position embedding.

Angles are 32-bit fractions of a turn. An integer product drops whole turns on overflow, so the
angle of a token is as exact at position 2^31 - 1 as at position 1. A product in float32 would be
off by 0.05 of a rotated component at position 2^20, and would give neighbours the same angle at
2^24.

Source: Su et al. 2021, "RoFormer", section 3.2.2; channel i is paired with channel i + K/2.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from seqarch.ops.rope_scaling import frequencies, magnitude
from seqarch.types import Array, Float, Int


class Rope(NamedTuple):
    """What rotates queries and keys: the arguments of `rope`."""

    base: float = 10_000.0
    scaling: str | None = None
    rotated: int | None = None

    def half(self, channels: int) -> int:
        """Returns the distance of the channels of a pair, in heads of so many channels."""
        return (channels if self.rotated is None else self.rotated) // 2

    def turn(
        self, x: Float[Array, "B T H K"], position: Int[Array, "B T"]
    ) -> Float[Array, "B T H K"]:
        """Returns what `rope` does."""
        return rope(x, position, self.base, scaling=self.scaling, rotated=self.rotated)

    def factors(
        self, position: Int[Array, "B T"], channels: int
    ) -> tuple[Float[Array, "B T K"], Float[Array, "B T K"]]:
        """Returns C and S, in float32, with which x C + x' S is x rotated.

        x' has the channels of each pair exchanged; S is 0 where no channel is rotated.

        Args:
          position: of each token.
          channels: those of a head.
        """
        half = self.half(channels)
        angle, m = angles(position, self.base, half, self.scaling), magnitude(self.scaling)
        cos, sin = m * jnp.cos(angle), m * jnp.sin(angle)
        rest = jnp.zeros((*position.shape, channels - 2 * half))
        c, s = [cos, cos, rest + 1], [-sin, sin, rest]
        return jnp.concatenate(c, axis=-1), jnp.concatenate(s, axis=-1)


def rope(
    x: Float[Array, "B T H K"],
    position: Int[Array, "B T"],
    base: float = 10_000.0,
    *,
    scaling: str | None = None,
    rotated: int | None = None,
) -> Float[Array, "B T H K"]:
    """Rotates the channel pairs (i, i + K/2) of `x` by the angle position * base^(-2i/K).

    Args:
      x: queries or keys of any floating dtype; K is even. The rotation is computed in float32.
      position: of each token, any int32; at absent tokens (-1) the result means nothing.
      base: the base of the frequencies.
      scaling: of the frequencies, as in seqarch/ops/rope_scaling.py; None: none.
      rotated: the number of first channels that take the place of K, an even one; the others stay
        as they are. None: K.
    """
    half = (x.shape[-1] if rotated is None else rotated) // 2
    angle, m = angles(position, base, half, scaling)[:, :, None], magnitude(scaling)
    cos, sin = m * jnp.cos(angle), m * jnp.sin(angle)
    a, b, rest = jnp.split(x, [half, 2 * half], axis=-1)
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    turned = [each.astype(x.dtype) for each in (a * cos - b * sin, b * cos + a * sin)]
    return jnp.concatenate([*turned, rest], axis=-1)


def angles(
    position: Int[Array, "B T"], base: float, half: int, scaling: str | None = None
) -> Float[Array, "B T {half}"]:
    """Returns position * frequency for each of `half` pairs, as an angle in [-pi, pi], in float32.

    The frequencies are base^(-i/half) for i < half, scaled.

    The turn per position is a binary fraction of 64 bits, high.low. Of its product with the
    position the first 32 bits after the point are kept: position * high, in which whole turns
    overflow, plus the carry of position * low.
    """
    turn = frequencies(base, half, scaling) / (2 * np.pi)
    high, rest = np.divmod(turn * 2.0**32, 1)
    high = np.uint64(high % 2.0**32).astype(np.uint32)[None, None]
    low = np.uint64(rest * 2.0**32).astype(np.uint32)[None, None]
    p = position.astype(jnp.uint32)[..., None]
    fraction = (p * high + _high_product(p, low)).astype(jnp.int32)
    return fraction.astype(jnp.float32) * np.float32(2 * np.pi / 2**32)


def _high_product(a: Array, b: np.ndarray) -> Array:
    """Returns the upper 32 bits of the 64-bit product of two uint32, at most 2 too small."""
    a1, a0, b1, b0 = a >> 16, a & 0xFFFF, b >> 16, b & 0xFFFF
    return a1 * b1 + (a1 * b0 >> 16) + (a0 * b1 >> 16)
