"""Attention among tokens in another order, in which those that see each other are neighbours."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seqarch.ops.numerics import behind
from seqarch.ops.online_softmax import Partial
from seqarch.ops.visibility import Places, Rule
from seqarch.types import Array, Float, Int


def in_order(
    form: Callable[..., Partial],
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G V"],
    at: Places,
    rule: Rule,
    order: Int[Array, "B T"],
    *,
    block: int,
) -> Partial:
    """Returns attention of tokens to each other, computed in an order of blocks of its own.

    Args:
      form: a form of attention.
      q: queries.
      k: keys of the same tokens.
      v: values.
      at: their places.
      rule: which keys a query sees; none of them stands behind it in the order.
      order: the indices of the tokens in the order.
      block: as in `form`.
    """
    back = jnp.argsort(order, axis=-1)
    q, k, v = (_permute(x, order, back) for x in (q, k, v))
    there = jax.tree.map(lambda x: _taken(x, order), at)
    found = form(q, k, v, there, there, rule, block=block)
    return Partial(*(_permute(x, back, order) for x in found))


@jax.custom_vjp
def _permute(
    x: Float[Array, "B T *X"], order: Int[Array, "B T"], back: Int[Array, "B T"]
) -> Float[Array, "B T *X"]:
    """Returns the tokens in another order; its gradient is in order again without a scatter."""
    return _taken(x, order)


def _taken(x: Array, order: Int[Array, "B T"]) -> Array:
    return jnp.take_along_axis(x, behind(order, x), axis=1)


_permute.defvjp(
    lambda x, order, back: (_permute(x, order, back), (order, back)),
    lambda orders, d: (_permute(d, *orders[::-1]), None, None),
)
