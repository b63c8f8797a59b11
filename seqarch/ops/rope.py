"""Rotary position embedding (Su et al. 2021, "RoFormer", section 3.2.2), channels paired half by half."""

import jax.numpy as jnp

from seqarch.types import Array, Float, Int


def rope(x: Float[Array, "B T H K"], position: Int[Array, "B T"], base: float = 10_000.0) -> Float[Array, "B T H K"]:
    """`x` with channel pairs (i, i + K/2) rotated by the angle position * base^(-2i/K). K is even."""
    half = x.shape[-1] // 2
    frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = position.astype(jnp.float32)[..., None, None] * frequency[None, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
