"""Attention to keys that are multiples of a stride away, as attention within residues.

Two tokens whose distance is a multiple of the stride have equal positions modulo it. Ordered by
document and residue, the tokens that see each other are neighbours, so that a blockwise form reads
T / stride keys for each query, and no others than those of the blocks around them.

Source: Child et al. 2019, "Generating long sequences with sparse transformers", section 4.3.
"""

from collections.abc import Callable

import jax.numpy as jnp

from seqarch.ops.online_softmax import Partial
from seqarch.ops.order import in_order
from seqarch.ops.visibility import Places, Rule, residues
from seqarch.types import Array, Float


def strided(
    form: Callable[..., Partial],
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G V"],
    at: Places,
    rule: Rule,
    *,
    block: int,
) -> Partial:
    """Returns attention of tokens to each other by `form`, of `seqarch.ops.attention`.

    Args:
      form: a form of attention.
      q: queries.
      k: keys of the same tokens.
      v: values.
      at: their places.
      rule: a rule with a stride.
      block: as in `form`.
    """
    order = jnp.lexsort((residues(at, rule.stride), at.segment), axis=-1)
    return in_order(form, q, k, v, at, rule, order, block=block)
