"""Digests of arrays that do not depend on how they are laid out over devices.

Each element's bits are mixed with its flat index, and the results are summed mod 2^32: a sum has no
order, so devices add up what they hold and nothing is gathered. Two sums with different mixes make
64 bits.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from seqarch.types import Array, Int

_SEEDS = (0x9E3779B9, 0x3C6EF372)


def digests(arrays: Mapping[str, Array]) -> dict[str, str]:
    """16 hexadecimal digits for each array, of its bits and their places; -0.0 and 0.0 differ, as
    do two NaNs.
    """
    # One at a time: programs that add up over devices can lock each other out where several wait
    # for few CPU threads.
    return {
        name: "".join(f"{value:08x}" for value in _sums(array).tolist())
        for name, array in arrays.items()
    }


@jax.jit
def _sums(array: Array) -> Int[Array, "2"]:
    bits = _bits(array)
    strides = [math.prod(array.shape[axis + 1 :]) % 2**32 for axis in range(array.ndim)]
    index = jnp.zeros(array.shape, jnp.uint32)
    for axis, stride in enumerate(strides):
        index += jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis) * jnp.uint32(stride)
    return jnp.stack(
        [_mix(bits ^ _mix(index + jnp.uint32(seed))).sum(dtype=jnp.uint32) for seed in _SEEDS]
    )


def _bits(array: Array) -> Array:
    """The elements, which without JAX's x64 mode are no wider, as uint32."""
    if array.dtype == jnp.bool:
        return array.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(array, f"uint{8 * array.dtype.itemsize}").astype(jnp.uint32)


def _mix(x: Array) -> Array:
    """MurmurHash3's finalizer (Appleby 2011), a bijection in which every bit of the input reaches
    every bit.
    """
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)
