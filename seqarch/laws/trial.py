"""A mixer under test: examples of its arguments, and the results of reading them."""

import inspect
from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.laws.readings import Cotangent, Example, Result, capacity, values_and_gradients
from seqarch.mixers.base import SequenceMixer


class Trial:
    """The examples and results of a mixer; each reading is compiled and run once per example.

    make: constructs the mixer from `dtype` and `rngs`
    make_small: constructs it with a chunk and block of at most 8
    dim: width of the mixer
    time: tokens of the examples
    seeds: number of examples
    """

    def __init__(self, make: Callable[..., SequenceMixer], dim: int, time: int, seeds: int):
        self.make, self.make_small = make, with_small_pieces(make)
        self.dim, self.time, self.seeds = dim, time, seeds
        self.prefill = jax.jit(lambda mixer, *arguments: mixer.prefill(*arguments))
        self.example = cache(self._example)
        self.result = cache(self._result)
        self._compile = cache(lambda reading: jax.jit(partial(values_and_gradients, reading)))

    @property
    def last(self) -> Example:
        """The example of the last seed."""
        return self.example(self.seeds - 1)

    def evaluate(
        self, reading: Callable, example: Example, cotangent: Cotangent | None = None
    ) -> Result:
        """Returns the values and gradients of a reading on an example of this trial's shapes."""
        if cotangent is None:
            cotangent = self.cotangent()
        return self._compile(reading)(example, cotangent)

    def cotangent(self, *, tokens=None, state: float = 1.0, rows=None) -> Cotangent:
        """Returns random cotangents.

        Args:
          tokens: which tokens [B T] have a cotangent; None: all.
          state: weight of the state's cotangents.
          rows: which rows [B] have a cotangent; None: all.
        """
        shape = (self.time + 1, self.time)
        weights = jnp.ones(shape) if tokens is None else jnp.asarray(tokens, jnp.float32)
        by_row = jnp.ones(shape[0]) if rows is None else jnp.asarray(rows, jnp.float32)
        return Cotangent(jax.random.key(0), weights * by_row[:, None], state * by_row)

    def _result(
        self,
        reading: Callable,
        seed: int,
        documents: bool = False,
        padding: bool = False,
        cut: bool = False,
    ) -> Result:
        """Returns values and gradients on the example of `seed`, computed once.

        Args:
          reading: of seqarch.laws.readings.
          seed: of the example.
          documents: whether rows have several documents.
          padding: whether rows end in padding.
          cut: whether rows are cut, each elsewhere.
        """
        example = self.example(seed)
        example = example if documents else example.unpacked()
        example = example if padding else example.unpadded()
        return self.evaluate(reading, example.cut() if cut else example)

    def _example(self, seed: int) -> Example:
        """Returns time + 1 rows, with states after documents of different lengths."""
        mixer = self.make_small(dtype=jnp.float32, rngs=nnx.Rngs(seed))
        B, T = self.time + 1, self.time
        keys = jax.random.split(jax.random.key(seed), 5)
        before, x = (jax.random.normal(key, (B, T, self.dim)) for key in keys[:2])
        past, lengths = (jax.random.randint(key, (B,), 0, T + 1) for key in keys[2:4])
        empty = mixer.init_state(B, capacity(T))
        _, state = self.prefill(mixer, before, empty, None, past)
        starts = jax.random.bernoulli(keys[4], 0.15, (B, T))
        starts = starts.at[0].set(False).at[1, jnp.array([0, T // 2, T // 2 + 1])].set(True)
        lengths = lengths.at[:3].set(jnp.array([T - 2, T, 0]))
        return Example(mixer, x, state, starts, lengths, jnp.full(B, T, jnp.int32))


def with_small_pieces(make: Callable[..., SequenceMixer]) -> Callable[..., SequenceMixer]:
    """Returns `make` with chunk and block of at most 8, so that short sequences cross them."""
    sizes = {}
    for name in ("chunk", "block"):
        parameter = inspect.signature(make).parameters.get(name)
        if parameter is not None and isinstance(parameter.default, int):
            sizes[name] = min(8, parameter.default)
    return partial(make, **sizes)
