"""Digests of arrays, which do not depend on the arrays' sharding.

Each element's bits are mixed with its flat index, and the results are summed mod 2^32. A sum has no
order, so each device sums its elements and nothing is gathered. Two sums with different mixes make
64 bits.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from seqarch.types import Array, Int

_SEEDS = (0x9E3779B9, 0x3C6EF372)


def digests(arrays: Mapping[str, Array]) -> dict[str, str]:
    """Returns 16 hexadecimal digits for the bits of each array, by name.

    -0.0 and 0.0 differ, as do NaNs with different bits.
    """
    found = {}
    for name, array in arrays.items():
        # One at a time: several programs with collectives can deadlock where CPU threads are few.
        found[name] = "".join(f"{value:08x}" for value in _sums(array).tolist())
    return found


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
    """Returns the bits of the elements as uint32; without JAX's x64 mode they have at most 32."""
    if array.dtype == jnp.bool:
        return array.astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(array, f"uint{8 * array.dtype.itemsize}").astype(jnp.uint32)


def _mix(x: Array) -> Array:
    """Returns MurmurHash3's finalizer of `x` (Appleby 2011), a bijection that mixes all bits."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)
