r"""Needle in a haystack: a fact hidden in real text is asked for at the end of the row.

    tokens    ... wherefore \nThe key of UV is 5498.\nart thou ... \nThe key of UV is 549
    targets                                                                          5498

Tokens are bytes. The rest of a row is a window of the text of config.data.path, of the works of its
own split, so that training and held-out rows share no text; documents' boundaries stay in it, a
text shorter than a row is repeated, and where the text itself says "The key of ", its T is made
small. The text of a tokenizer is refused, as facts of one length would differ in tokens.

A fact has a name of two capital letters, and `digits` random digits, each of which is scored after
those before it. Of several facts, one is asked for, by its name. The logarithm of its distance is
uniform, so that all scales between the shortest and the longest are equally likely; the others
stand anywhere. The loss is that of the digits alone, so no more of the text is learned than they
need. Chance: one in ten digits. With one fact, the rule that repeats the row's first digit gets the
first of the answer's digits right.

Source: Mohtashami and Jaggi 2023, "Landmark attention: random-access infinite context length for
transformers", the pass key: there a language model that was not trained on the question is asked
for one number, in a random place of a few sentences that repeat, and the whole number counts. Names
and several facts are as in Hsieh et al. 2024, "RULER: what's the real context size of your
long-context language models?".
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.base import SPLITS
from seqarch.tasks.draws import distinct
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.tasks.text.corpus import locate
from seqarch.tasks.text.tokenizer import BYTES
from seqarch.tasks.text.tokens import TokenFile, open_split
from seqarch.types import Bool, Int

if TYPE_CHECKING:
    from seqarch.config import Config


def _bytes(text: str) -> Int[np.ndarray, "n"]:
    return np.frombuffer(text.encode(), np.uint8).astype(int)


BEFORE, BETWEEN, AFTER = _bytes("The key of "), _bytes(" is "), _bytes(".")
BREAK = _bytes("\n")  # before and after a fact, and before the question
LETTERS, DIGITS = _bytes("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), _bytes("0123456789")
NAMES = len(LETTERS) ** 2
OPENING = len(BEFORE) + 2 + len(BETWEEN)  # bytes up to the digits
SMALL = ord("a") - ord("A")  # added to a capital letter
EMPTY = -1  # where the text of a split will stand


@dataclasses.dataclass(frozen=True)
class Needle(Probe):
    """Needle in a haystack.

    Attributes:
      length: bytes of a row.
      facts: number of facts in a row, of which one is asked for.
      digits: of a fact, all of them scored.
      distance: bytes from a digit of the fact to the position that asks for it; None: drawn.
      text: what config.data.path names; no option of the task.
    """

    of_text: ClassVar[bool] = True
    size: ClassVar[str] = "facts"
    sizes: ClassVar[tuple[float, ...]] = (2, 4)
    vocab: ClassVar[int] = BYTES.vocab
    length: int = 256
    facts: int = 1
    digits: int = 4
    distance: int | None = None
    text: str = dataclasses.field(default="shakespeare", kw_only=True)

    def __post_init__(self):
        if self.facts > NAMES:
            raise UserError(f"needle has {NAMES} names, too few for {self.facts} facts")
        needed = self.length - self._question + 1 + (self.facts + 1) * self._fact
        if self.length < needed:
            raise UserError(
                f"needle with {self.facts} facts of {self.digits} digits needs a length of "
                f"{needed} or more; length is {self.length}"
            )
        nearest, farthest = self._reach
        if self.distance is not None and not nearest <= self.distance <= farthest:
            raise UserError(
                f"needle with {self.digits} digits and length {self.length} has distances of "
                f"{nearest} to {farthest}; distance is {self.distance}"
            )

    @property
    def _fact(self) -> int:
        """The bytes of a fact, with its line breaks."""
        return OPENING + self.digits + len(AFTER) + 2 * len(BREAK)

    @property
    def _question(self) -> int:
        """The place of the question after its line break."""
        return self.length - OPENING - self.digits + 1

    @property
    def _reach(self) -> tuple[int, int]:
        """The shortest and the longest distance: that of the last place, and of the first."""
        return self._fact - 1, self._question - 2

    @property
    def most_scored(self) -> int:
        return self.digits

    @property
    def chance(self) -> float:
        return 1 / len(DIGITS)

    @classmethod
    def from_config(cls, config: "Config", **options: Any) -> Self:
        probe = super().from_config(config, **options, text=config.data.path)
        probe._open("train")
        return probe

    @property
    def digest(self) -> str:
        splits = self._open("train").meta["splits"]
        content = "".join(splits[name]["sha256"] for name in SPLITS if name in splits)
        return Probe.digest.fget(dataclasses.replace(self, text=content))  # wherever it lies

    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        """Returns rows without their text, which is `EMPTY`."""
        names = distinct(rng, count, self.facts, NAMES)
        digits = DIGITS[rng.integers(len(DIGITS), size=(count, self.facts, self.digits))]
        facts = _facts(names, digits)
        row = np.arange(count)[:, None, None]
        tokens = np.full((count, self.length), EMPTY)
        tokens[row, self._places(rng, count)[:, :, None] + np.arange(self._fact)] = facts
        question = self._question - len(BREAK)
        tokens[:, question:] = facts[:, 0, : self.length - question]
        return Rows.asking(tokens, np.s_[:, -self.digits :], digits[:, 0])

    def fill(self, rows: Rows, split: str, rng: np.random.Generator) -> Rows:
        text, tokens = self._open(split).tokens, rows.tokens.copy()
        empty = tokens == EMPTY  # of equally many positions in every row
        starts = rng.integers(len(text), size=(len(tokens), 1))
        window = text[(starts + np.arange(empty[0].sum())) % len(text)].astype(int)
        said = _matches(window, BEFORE[None])
        window[:, : said.shape[1]][said] += SMALL
        tokens[empty] = window.ravel()
        return rows._replace(tokens=tokens)

    def _open(self, split: str) -> TokenFile:
        found = open_split(locate(self.text), split)
        if (kind := found.meta["tokenizer"]) != BYTES.name:
            raise UserError(
                f"needle needs a text of bytes, and that in {found.directory} has tokens of a "
                f"{kind}; prepare it without a tokenizer"
            )
        return found

    def _places(self, rng: np.random.Generator, count: int) -> Int[np.ndarray, "B F"]:
        """Returns where each fact begins, with its line break; the first one is asked for.

        The other facts stand before or after it, among as much text as is left on that side.
        """
        last, others = self._reach[1] - self._reach[0], self.facts - 1
        asked = self._reach[1] - self._distance(rng, count)[:, None]
        least = np.maximum(0, others - asked // self._fact)
        most = np.minimum(others, (last - asked) // self._fact)
        after = rng.integers(least, most + 1)  # facts after the one that is asked for
        text_before = asked - (others - after) * self._fact
        text_after = last - asked - after * self._fact
        is_after = np.arange(others) < after
        share = rng.random((count, others))
        place = np.where(
            is_after,
            text_before + np.floor(share * (text_after + 1)),
            np.floor(share * (text_before + 1)),
        )
        texts = np.concatenate([text_before, place.astype(int)], axis=1)  # before each fact
        side = np.concatenate([np.ones_like(after), 2 * is_after], axis=1)
        order = np.argsort(3 * texts + side, axis=1, kind="stable")
        return texts + self._fact * np.argsort(order, axis=1)

    def _distance(self, rng: np.random.Generator, count: int) -> Int[np.ndarray, "B"]:
        """Returns the distance of each row."""
        if self.distance is not None:
            return np.full(count, self.distance)
        nearest, farthest = self._reach
        drawn = np.exp(rng.uniform(math.log(nearest), math.log(farthest + 1), size=count))
        return np.clip(drawn.astype(int), nearest, farthest)

    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        places = self._fact_of(tokens)[:, None] + OPENING + np.arange(self.digits)
        answers = np.full_like(tokens, -1)
        answers[:, -self.digits :] = np.take_along_axis(tokens, places, axis=1)
        return answers

    def distances(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the number of bytes from each digit of the fact to the position that asks."""
        found = self._question - 1 - self._fact_of(tokens)
        return np.broadcast_to(found[:, None], tokens.shape)

    def _fact_of(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B"]:
        """Returns the place of the fact that is asked for, after its line break."""
        question = tokens[:, self._question : self._question + OPENING]
        return _matches(tokens[:, : self._question], question).argmax(axis=1)


def _facts(
    names: Int[np.ndarray, "B F"], digits: Int[np.ndarray, "B F d"]
) -> Int[np.ndarray, "B F n"]:
    """Returns the bytes of facts, with a line break before and after each."""
    letters = LETTERS[np.stack(np.divmod(names, len(LETTERS)), axis=2)]
    parts = (BREAK, BEFORE, letters, BETWEEN, digits, AFTER, BREAK)
    whole = (np.broadcast_to(each, (*names.shape, each.shape[-1])) for each in parts)
    return np.concatenate(tuple(whole), axis=2)


def _matches(
    tokens: Int[np.ndarray, "B T"], pattern: Int[np.ndarray, "b n"]
) -> Bool[np.ndarray, "B t"]:
    """Returns where the pattern of each row begins; one pattern is that of all rows."""
    found = np.ones((len(tokens), tokens.shape[1] - pattern.shape[1] + 1), bool)
    for place in range(pattern.shape[1]):
        found &= tokens[:, place : place + found.shape[1]] == pattern[:, place, None]
    return found
