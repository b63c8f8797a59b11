"""Attention to keys with the same hash, over several rounds of hashing.

    h_r(i) = argmax([y_i R_r, -y_i R_r])    the bucket of y_i = W x_i in round r; R_r random, fixed
    a_r(i) = h_r(i) 2^31 / buckets + n      the address, n tokens of the bucket being before i

Query i finds key j in round r iff 0 < a_r(i) - a_r(j) <= window: j is before i in the same bucket
of its document, with fewer than `window` others between. It attends to the keys that any round
finds, each counted once; where there are none, to itself.

The masked form compares all pairs of tokens. The sorted form attends, apart for each round, to
tokens in the order of their addresses, in which the keys that a query finds are the last ones
before it, so that time and memory are proportional to T. A round leaves out what an earlier one has
found, and the rounds are merged by the logs of their denominators.

Source: Kitaev et al. 2020, "Reformer", section 2 and appendix A; Andoni et al. 2015, "Practical and
optimal LSH for angular distance" (the hash). Reformer's chunks of the sorted tokens shift when a
token comes later, so what a token sees depends on later ones; here it does not. Its log N_ij, for a
key that N_ij rounds find, counts a key once, as is done here.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from seqarch.ops.attention import FORMS as ATTENTION
from seqarch.ops.cache_attention import cache_attention
from seqarch.ops.exact import exact_product
from seqarch.ops.folding import fold, fold_places, unfold
from seqarch.ops.forms import Forms
from seqarch.ops.online_softmax import Partial, merge
from seqarch.ops.order import in_order
from seqarch.ops.visibility import Hashed, Places, Rule
from seqarch.types import Array, Float, Int

# The score of a token with itself, below all others, yet above that of no key at all.
ALONE = -1e5


def hashes(
    x: Float[Array, "B T D"], W: Float[Array, "D F"], heads: int, rounds: int, buckets: int
) -> Int[Array, "B T H rounds"]:
    """Returns each head's bucket of each token, to the bit the same in any batch.

    Args:
      x: inputs.
      W: the projection to the queries of all heads.
      heads: number H of heads.
      rounds: number of hashes.
      buckets: number of values of a hash; even.
    """
    y = exact_product(x, W).reshape(*x.shape[:2], heads, -1)
    rotated = exact_product(y, rotations(y.shape[-1], rounds, buckets))
    rotated = rotated.reshape(*y.shape[:3], rounds, -1)
    return jnp.concatenate([rotated, -rotated], axis=-1).argmax(-1).astype(jnp.int32)


@cache
def rotations(channels: int, rounds: int, buckets: int) -> np.ndarray:
    """Returns the matrices R_r side by side, in sixteenths; those of the first rounds stay."""
    draw = lambda r: np.random.default_rng(r).standard_normal((channels, buckets // 2))
    return np.round(16 * np.concatenate([draw(r) for r in range(rounds)], axis=1), 0).astype("f4")


def addresses(
    bucket: Int[Array, "B T H rounds"], at: Places, count: Int[Array, "B H rounds buckets"]
) -> Int[Array, "B T H rounds"]:
    """Returns the addresses of tokens.

    Args:
      bucket: of each token.
      at: places of the tokens; the absent ones are the last.
      count: tokens in each bucket before those of segment 0.
    """
    bucket, segment = jnp.moveaxis(bucket, 1, -1), at.segment[:, None, None]
    group = segment * count.shape[-1] + bucket
    order = jnp.argsort(group, axis=-1, stable=True)
    group = jnp.take_along_axis(group, order, axis=-1)
    index = jnp.broadcast_to(jnp.arange(group.shape[-1]), group.shape)
    begins = jnp.concatenate([jnp.ones_like(index[..., :1]), jnp.diff(group)], axis=-1) > 0
    rank = index - jax.lax.cummax(jnp.where(begins, index, 0), axis=index.ndim - 1)
    rank = jnp.take_along_axis(rank, jnp.argsort(order, axis=-1), axis=-1)
    before = jnp.where(segment == 0, jnp.take_along_axis(count, bucket, axis=-1), 0)
    return jnp.moveaxis(bucket * _span(count) + rank + before, -1, 1)


def recount(
    count: Int[Array, "B H rounds buckets"], address: Int[Array, "B T H rounds"], kept: Array
) -> Int[Array, "B H rounds buckets"]:
    """Returns the tokens in each bucket after those at `address` of which some [B,T] are `kept`."""
    B, H, rounds, _ = count.shape
    bucket, rank = jnp.divmod(address, _span(count))
    row, head, r = np.ix_(range(B), range(H), range(rounds))
    index = (x[:, None] for x in (row, head, r))
    return count.at[(*index, bucket)].max(jnp.where(kept[:, :, None, None], rank + 1, 0))


def _span(count: Int[Array, "B H rounds buckets"]) -> int:
    """Returns the distance of the first addresses of two buckets."""
    return 2**31 // count.shape[-1]


def _masked(q, k, v, at: Places, *, window: int, block: int) -> Partial:
    return ATTENTION["materialised"](q, k, v, at, at, Rule(hashed=Hashed(window)), block=block)


def _sorted(q, k, v, at: Places, *, window: int, block: int) -> Partial:
    B, _, rounds = at.address.shape
    q, k, v, position, segment = (_repeat(x, rounds) for x in (q, k, v, *at[:2]))
    own = jnp.moveaxis(at.address, -1, 0).reshape(rounds * B, -1)
    earlier = jnp.arange(rounds)[:, None] > jnp.arange(rounds - 1)[None]
    earlier = jnp.repeat(earlier, B, axis=0)[:, None]
    # A query does not find a key of its own address.
    others = jnp.where(earlier, _repeat(at.address[..., :-1], rounds), 0)
    there = Places(position, segment, jnp.concatenate([own[..., None], others], axis=-1))
    order, rule = jnp.lexsort((own, segment), axis=-1), Rule(hashed=Hashed(window, apart=True))
    found = in_order(ATTENTION["blockwise"], q, k, v, there, rule, order, block=block)
    return merge(*(jax.tree.map(lambda x: x[r * B : (r + 1) * B], found) for r in range(rounds)))


def _repeat(x: Array, rounds: int) -> Array:
    """Returns x [B,...] once for each round [rounds B,...]."""
    return jnp.concatenate([x] * rounds)


FORMS = Forms({"masked": _masked, "sorted": _sorted}, cpu="sorted", accelerator="sorted")


def lsh(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    address: Int[Array, "B T H rounds"],
    *,
    at: Places,
    window: int,
    method: str = "auto",
    block: int = 128,
) -> Partial:
    """Returns attention of tokens to those of the same call that they find.

    Args:
      q: queries.
      k: keys.
      v: values.
      address: addresses of the tokens.
      at: their places.
      window: keys that a query finds in a bucket.
      method: a name in FORMS, or "auto".
      block: tokens per block of the sorted form.
    """
    folded = (fold(x)[:, :, None] for x in (q, k, v))
    there = fold_places(at, v.shape[2], address=address)
    return _with_itself(FORMS.pick(method)(*folded, there, window=window, block=block), v)


def cached_lsh(
    q: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    at: Places,
    address: Int[Array, "B T H rounds"],
    cache: tuple[Array, Array, Array],
    k_pos: Int[Array, "B S"],
    filled: Int[Array, ""],
    *,
    window: int,
) -> Partial:
    """Returns attention of tokens to those of a cache that they find.

    Args:
      q: queries.
      v: values of the same tokens.
      at: places of the tokens.
      address: their addresses.
      cache: keys [B,H,S,K], values [B,H,S,V] and addresses [B,H,S,rounds].
      k_pos: positions of the slots; -1 where a slot is empty.
      filled: slots from the first on that are read, in all rows.
      window: keys that a query finds in a bucket.
    """
    k, values, addresses = (x.reshape(-1, *x.shape[2:]) for x in cache)
    there, rule = fold_places(at, v.shape[2], address=address), Rule(hashed=Hashed(window))
    given = fold(q)[:, :, None], k[:, None], values[:, None], there, k_pos, filled, rule
    return _with_itself(cache_attention(*given, address=addresses), v)


def _with_itself(found: Partial, v: Float[Array, "B T H V"]) -> Partial:
    """Returns the heads' results [B H,T,1,...] by head, merged with attention to oneself."""
    return merge(unfold(found, v.shape[2]), Partial(v, jnp.full(v.shape[:3], ALONE)))
