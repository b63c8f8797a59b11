"""Sources and targets of encoder-decoders as text: read from a prompt, and written.

Of span corruption a source is text with its missing spans marked, as in "Thank you <0> to your
party <1>.", and a target names what they are. Of a probe it is numbers, the ids of symbols.
"""

import re
from typing import NamedTuple

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.base import Task
from seqarch.tasks.seq2seq import Seq2Seq
from seqarch.tasks.text.span_corruption import SENTINELS, SpanCorruption
from seqarch.tasks.text.tokenizer import Tokenizer
from seqarch.types import Int

MARK = re.compile(rb"<(\d{1,9})>")  # the place of a missing span
LONGEST = 9  # digits of a symbol; int() refuses those of more than 4300


class Question(NamedTuple):
    """A source, and where its target ends.

    Attributes:
      source: its tokens.
      size: tokens of the target; None: they end with `stop`.
      stop: the token behind the target; None: there is none.
      answer: the target that is right; None: it is not known.
    """

    source: Int[np.ndarray, "S"]
    size: int | None = None
    stop: int | None = None
    answer: Int[np.ndarray, "T"] | None = None


class Symbols:
    """Sources and targets of a probe; an instance reads and writes them as numbers."""

    def __init__(self, task: Seq2Seq):
        self.task = task

    def read(self, prompt: bytes) -> Question:
        """Returns the source of a prompt such as b"3 1 2".

        Raises:
          UserError: where it is not numbers of symbols.
        """
        most, words = self.task.symbols - 1, prompt.split()
        for word in words:
            short = word.isdigit() and len(word) <= LONGEST
            if not (short and int(word) <= most):
                shown = word[:20].decode(errors="replace")
                raise UserError(
                    f"the prompt has {shown!r}; the source is of symbols 0 to {most}: write "
                    f"them as numbers, such as '0 1 {most}'"
                )
        return self._question(np.array(words, int))

    def draw(self, seed: int) -> Question:
        """Returns a source of the held-out rows."""
        tokens = self.task.rows("test", seed, 0, 1).tokens
        return self._question(tokens[0, : self.task.sizes_of(tokens)[0]])

    def write(self, tokens: Int[np.ndarray, "T"]) -> bytes:
        """Returns the text of a source or a target."""
        return " ".join(map(str, tokens[tokens != self.task.vocab - 1])).encode()

    def _question(self, symbols: Int[np.ndarray, "S"]) -> Question:
        target, size = self.task.translate(symbols[None], np.array([len(symbols)]))
        answer = target[0, : size[0]]
        return Question(np.append(symbols, self.task.vocab - 1), int(size[0]), None, answer)


class SpanSource:
    """Sources and targets of span corruption; an instance reads and writes them as text."""

    def __init__(self, task: SpanCorruption, tokenizer: Tokenizer):
        self.task, self.tokenizer = task, tokenizer
        self._boundary, self._first = task.vocab - 1, task.vocab - 1 - SENTINELS

    def read(self, prompt: bytes) -> Question:
        """Returns the source of a prompt such as b"Thank you <0> to your party <1>.".

        Raises:
          UserError: where it marks no missing span, or not as <0>, <1>, <2> and so on.
        """
        parts = MARK.split(prompt)
        marks = [int(mark) for mark in parts[1::2]]
        if marks != list(range(len(marks))) or not 0 < len(marks) < SENTINELS:
            found = ", ".join(f"<{mark}>" for mark in marks) or "none"
            raise UserError(
                f"the prompt marks as missing spans: {found}; mark each, from <0> on, at most to "
                f"<{SENTINELS - 2}>, as in 'Thank you <0> to your party <1>.'"
            )
        source = list(self.tokenizer.encode(parts[0]))
        for mark, text in zip(marks, parts[2::2], strict=True):
            source += [self._first + mark, *self.tokenizer.encode(text)]
        return self._question(np.array(source))

    def draw(self, seed: int) -> Question:
        """Returns the source of a held-out window, one of 64 that a seed chooses."""
        sources = self.task.windows("test", 64).source
        source = sources[seed % len(sources)]
        return self._question(source[(source >= 0) & (source != self._boundary)])

    def write(self, tokens: Int[np.ndarray, "T"]) -> bytes:
        """Returns the text of a source or a target, with its sentinels as marks."""
        text, start = b"", 0
        for place in np.flatnonzero(tokens >= self._first):
            mark = tokens[place] - self._first
            text += self.tokenizer.decode(tokens[start:place])
            text += b"<%d>" % mark if mark < SENTINELS else b""
            start = place + 1
        return text + self.tokenizer.decode(tokens[start:])

    def _question(self, source: Int[np.ndarray, "S"]) -> Question:
        spans = int((source >= self._first).sum())
        return Question(np.append(source, self._boundary), stop=self._first + spans)


def sources_of(task: Task, tokenizer: Tokenizer | None) -> Symbols | SpanSource:
    """Returns what reads and writes the sources and targets of a task that has a source.

    Args:
      task: the task.
      tokenizer: that of the text of span corruption; None for a probe.
    """
    return Symbols(task) if isinstance(task, Seq2Seq) else SpanSource(task, tokenizer)
