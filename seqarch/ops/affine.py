"""The monoid of affine maps h -> a h + b, of which every linear recurrence is made.

A recurrence is given by two functions of a chunk of tokens: the affine map by which it acts on the
state (`summarise`), and its outputs for the state that enters it (`read`). Maps compose
associatively (Blelloch 1990, "Prefix sums and their applications", section 1.4), so the same two
functions give every form:

    scan         lax.scan over chunks, the state carried      chunk = 1: the step-by-step definition
    associative  lax.associative_scan over chunk summaries    chunk = 1: the textbook parallel scan
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.ops.chunks import join, split, tokens_of
from seqarch.ops.forms import Forms
from seqarch.ops.numerics import dot
from seqarch.types import Array, Float, PyTree


class Affine(NamedTuple):
    """The map h -> decay * h + value; `decay` broadcasts against `value`."""

    decay: Array
    value: Array

    def __call__(self, h: Array) -> Array:
        return self.decay * h + self.value

    def after(self, first: "Affine") -> "Affine":
        """Returns the map that applies `first`, then this one."""
        return Affine(self.decay * first.decay, self(first.value))


class MatrixAffine(NamedTuple):
    """The map h -> decay h + value, where `decay` is a matrix."""

    decay: Float[Array, "... K K"]
    value: Float[Array, "... K V"]

    def __call__(self, h: Array) -> Array:
        return dot("...kj,...jv->...kv", self.decay, h) + self.value

    def after(self, first: "MatrixAffine") -> "MatrixAffine":
        """Returns the map that applies `first`, then this one."""
        return MatrixAffine(dot("...kj,...ji->...ki", self.decay, first.decay), self(first.value))


def compose(first: Affine | MatrixAffine, then: Affine | MatrixAffine) -> Affine | MatrixAffine:
    """Returns the map that applies `first`, then `then`."""
    return then.after(first)


class Recurrence(NamedTuple):
    """A linear recurrence in terms of chunks, which are pytrees of arrays [B, C, ...].

    summarise: prepared chunk -> Affine, or MatrixAffine, on the state [B, ...]
    read: (prepared chunk, state entering it) -> outputs [B, C, ...]
    identity: a pytree like a chunk, of the scalars with which a token leaves the state alone;
      padding consists of them
    prepare: chunk -> prepared chunk, what both need
    advance: (prepared chunk, state entering it) -> (state leaving it, outputs), where this takes
      less than `summarise` and `read`
    """

    summarise: Callable[[PyTree], Affine | MatrixAffine]
    read: Callable[[PyTree, Array], Array]
    identity: PyTree
    prepare: Callable[[PyTree], PyTree] = lambda chunk: chunk
    advance: Callable[[PyTree, Array], tuple[Array, Array]] | None = None


def scan(
    recurrence: Recurrence, tokens: PyTree, h: Array, *, chunk: int, remat: bool = True
) -> tuple[Array, Array]:
    """Returns outputs [B, T, ...] and the final state, by lax.scan over chunks.

    Args:
      recurrence: of the tokens.
      tokens: a pytree of arrays [B, T, ...].
      h: the state [B, ...] before the first token.
      chunk: tokens of a chunk.
      remat: keep only the state that enters each chunk for the backward pass, and recompute the
        rest.
    """

    def body(h: Array, chunk: PyTree) -> tuple[Array, Array]:
        chunk = recurrence.prepare(chunk)
        if recurrence.advance is not None:
            return recurrence.advance(chunk, h)
        return recurrence.summarise(chunk)(h), recurrence.read(chunk, h)

    chunks = split(recurrence.identity, tokens, chunk)
    h, outputs = jax.lax.scan(jax.checkpoint(body) if remat else body, h, chunks)
    return join(outputs, tokens_of(tokens)), h


def associative(
    recurrence: Recurrence, tokens: PyTree, h: Array, *, chunk: int
) -> tuple[Array, Array]:
    """Returns what `scan` returns, by lax.associative_scan over the summaries of all chunks.

    Its depth is log(T / chunk), and all chunks are in memory at once.
    """
    chunks = jax.vmap(recurrence.prepare)(split(recurrence.identity, tokens, chunk))
    prefixes = jax.lax.associative_scan(compose, jax.vmap(recurrence.summarise)(chunks))
    after = jax.vmap(lambda prefix: prefix(h))(prefixes)
    entering = jnp.concatenate([h[None], after[:-1]])
    return join(jax.vmap(recurrence.read)(chunks, entering), tokens_of(tokens)), after[-1]


FORMS = Forms(
    {
        "sequential": lambda *args, chunk: scan(*args, chunk=1, remat=False),
        "associative": lambda *args, chunk: associative(*args, chunk=1),
        "chunked": scan,
        "parallel": associative,
    },
    cpu="chunked",
    accelerator="parallel",
)
