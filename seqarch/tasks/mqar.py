"""Multi-query associative recall: pairs of keys and values, then queries for the keys.

    tokens    k1 v1 k2 v2 | f  k2 f  f  k1 f  f  f        f: filler, in none of the row's pairs
    targets   -  -  -  -  | -  v2 -  -  v1 -  -  -

Keys and values are from disjoint halves of the vocabulary and distinct within a row. Each row draws
new ones, so that only the context tells the value of a key. After a query comes filler, not the
value. Queries are in slots of two tokens; with fewer queries than slots, slot i is taken with a
probability proportional to i^-0.99. Queries are scored. Chance: one in the number of values; the
answer that is always the row's first value is right at one in the number of pairs.

`variant=zoology` is the source: training has 100,000 rows, again and again in another order;
filler is token 0, which is no key; each key is asked for once, the first key first drawn a slot.
`mqar(variant=zoology,vocab=8192)` is the easiest setting of its figure 2. By default the code of
the source has random filler, which the configs of that figure replace.

Source: Arora et al. 2023, "Zoology: Measuring and improving recall in efficient language models",
and its code (zoology, `multiquery_ar`). There the rows of a test are of another seed; here they are
disjoint from training.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from seqarch.errors import UserError, unknown
from seqarch.tasks.draws import distinct
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.types import Int

VARIANTS = ("fresh", "zoology")
POWER = 0.01  # of gaps: slot i has a probability proportional to i^(POWER - 1)
TRAINING_ROWS = 100_000  # of variant=zoology


@dataclasses.dataclass(frozen=True)
class MQAR(Probe):
    """Multi-query associative recall.

    Attributes:
      pairs: number of pairs of a key and a value in a row.
      length: tokens of a row.
      vocab: number of keys and values, half of them each.
      queries: scored positions of a row; None: one per key. With more queries than pairs, each key
        is queried at least once.
      variant: "fresh": new rows in every batch; "zoology": as the source has it.
    """

    size: ClassVar[str] = "pairs"
    pairs: int = 4
    length: int = 64
    vocab: int = 256
    queries: int | None = None
    variant: str = "fresh"

    def __post_init__(self):
        if self.variant not in VARIANTS:
            raise unknown("variant of task mqar", self.variant, VARIANTS)
        if self.variant == "zoology" and self._queries != self.pairs:
            raise UserError("mqar with variant=zoology asks for each key once; leave out queries")
        needed = 2 * self.pairs + 2 * self._queries
        if self.length < needed:
            raise UserError(
                f"mqar with {self.pairs} pairs and {self._queries} queries needs a length of "
                f"{needed} or more; length is {self.length}"
            )
        if self._keys <= self.pairs:
            raise UserError(
                f"mqar with {self.pairs} pairs needs a vocab of {2 * self.pairs + 2} or more; "
                f"vocab is {self.vocab}"
            )

    @property
    def _queries(self) -> int:
        return self.pairs if self.queries is None else self.queries

    @property
    def _keys(self) -> int:
        """The number of keys, which are the first tokens; the others are values."""
        return self.vocab // 2

    @property
    def most_scored(self) -> int:
        return self._queries

    @property
    def chance(self) -> float:
        return 1 / (self.vocab - self._keys)

    @property
    def training_rows(self) -> int:
        return TRAINING_ROWS if self.variant == "zoology" else 0

    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        zoology = self.variant == "zoology"
        keys = zoology + distinct(rng, count, self.pairs, self._keys - zoology)
        values = self._keys + distinct(rng, count, self.pairs, self.vocab - self._keys)
        context = np.stack([keys, values], axis=2).reshape(count, -1)
        tokens = self._filler(rng, context)
        tokens[:, : context.shape[1]] = context
        row = np.arange(count)[:, None]
        places, asked = self._places(rng, count), self._asked(rng, count)
        tokens[row, places] = keys[row, asked]
        return Rows.asking(tokens, (row, places), values[row, asked])

    def _filler(self, rng: np.random.Generator, context: np.ndarray) -> Int[np.ndarray, "B T"]:
        """Rows of tokens that are not in `context`; of token 0 in the variant zoology."""
        if self.variant == "zoology":
            return np.zeros((len(context), self.length), int)
        used = np.sort(context, axis=1)
        tokens = rng.integers(self.vocab - used.shape[1], size=(len(context), self.length))
        # the i-th unused token is i and as many as there are used ones below it, of which j has
        # used[j] - j unused ones below; one search for all rows, which lie `vocab` apart
        row = np.arange(len(context))[:, None]
        below = used - np.arange(used.shape[1]) + row * self.vocab
        passed = np.searchsorted(below.ravel(), tokens + row * self.vocab, side="right")
        return tokens + passed - row * used.shape[1]

    def _places(self, rng: np.random.Generator, count: int) -> Int[np.ndarray, "B Q"]:
        """Returns the positions of queries: slots drawn without replacement, by Gumbel-max."""
        slots = (self.length - 2 * self.pairs) // 2
        log_p = (POWER - 1) * np.log(np.arange(1, slots + 1))
        ranks = np.argsort(-(log_p + rng.gumbel(size=(count, slots))), axis=1)
        return 2 * self.pairs + 2 * ranks[:, : self._queries]

    def _asked(self, rng: np.random.Generator, count: int) -> Int[np.ndarray, "B Q"]:
        """Returns the pair of each query: every pair if there are enough queries, in any order.

        In the variant zoology, in the order in which the slots were drawn.
        """
        if self.variant == "zoology":
            return np.arange(self.pairs)[None]
        first = np.broadcast_to(np.arange(self.pairs), (count, self.pairs))
        more = rng.integers(self.pairs, size=(count, max(0, self._queries - self.pairs)))
        asked = rng.permuted(first, axis=1)[:, : self._queries]
        return rng.permuted(np.concatenate([asked, more], axis=1), axis=1)

    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        pair = self._pair_of(tokens)
        values = tokens[:, 1 : 2 * self.pairs : 2]
        return np.where(pair >= 0, np.take_along_axis(values, np.maximum(pair, 0), axis=1), -1)

    def distances(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the number of tokens from a value to the query for its key."""
        return np.arange(tokens.shape[1]) - (1 + 2 * self._pair_of(tokens))

    def _pair_of(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the pair whose key a token after the pairs is; -1 where it is no key."""
        found = np.full(tokens.shape, -1)
        for pair in range(self.pairs):
            found[tokens == tokens[:, 2 * pair, None]] = pair
        found[:, : 2 * self.pairs] = -1
        return found
