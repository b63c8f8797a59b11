"""Counts model FLOPs: those of a model's definition, the same for every form of its mixers."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqarch.flops import Flops, add_up, count_flops


def forward_flops(model: Any, time: int, scored: int | None = None, source: int = 0) -> Flops:
    """Returns the model FLOPs of a forward pass over one sequence.

    They are counted as those of `time` steps, each from a state with room for the tokens so far: a
    mixer's step has no forms, computes nothing twice and attends to each visible key once. Those of
    an encoder, which has no step, are those of its program.

    Args:
      model: a LanguageModel, or another model with its `step` and `init_state`; may be abstract.
      time: tokens T of the sequence.
      scored: tokens whose logits are computed; None: all.
      source: tokens of an encoder-decoder's source; 0: it is a language model.

    Source: Chowdhery et al. 2022, "PaLM", appendix B.
    """
    token = jax.ShapeDtypeStruct((1,), jnp.int32)
    room = (source,) if source else ()

    @functools.cache
    def of_step(structure: jax.tree_util.PyTreeDef, *leaves: jax.ShapeDtypeStruct) -> Flops:
        state = jax.tree.unflatten(structure, leaves)
        return count_flops(type(model).step, model, token, state)

    def at(t: int) -> Flops:
        state = jax.eval_shape(lambda model: model.init_state(1, t, *room), model)
        leaves, structure = jax.tree.flatten(state)
        return of_step(structure, *leaves)

    whole = _sum_over(at, 1, time)
    if source:
        given = jax.ShapeDtypeStruct((1, source), jnp.int32)
        whole = add_up((whole, count_flops(lambda model, x: model.encode(x, 0), model, given)))
    if scored is None:
        return whole
    hidden = jax.ShapeDtypeStruct((model.embedding.shape[1],), model.dtype)
    spared = count_flops(lambda model, x: model.logits(model.norm(x)), model, hidden)
    return add_up((whole, spared.times(scored - time)))


def train_flops(model: Any, time: int, scored: int | None = None, source: int = 0) -> Flops:
    """Returns the model FLOPs of training on one sequence; the arguments are `forward_flops`'s.

    A backward pass has twice the FLOPs of a forward pass.
    """
    return forward_flops(model, time, scored, source).times(3)


def _sum_over(at: Callable[[int], Flops], first: int, last: int) -> Flops:
    """Returns at(first) + ... + at(last) for a piecewise linear function, split by bisection."""
    ends, count = (at(first), at(last)), last - first + 1
    places = [first + (last - first) * part // 4 for part in (1, 2, 3)]
    if count <= 2 or all(_on_line(at(t), *ends, (t - first) / (last - first)) for t in places):
        loops = max(each.uncounted_loops for each in ends)
        return add_up(ends).times(count / 2)._replace(uncounted_loops=loops)
    return add_up((_sum_over(at, first, places[1]), _sum_over(at, places[1] + 1, last)))


def _on_line(value: Flops, start: Flops, end: Flops, share: float) -> bool:
    line = (a + share * (b - a) for a, b in zip(start[:2], end[:2], strict=True))
    return all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(value[:2], line, strict=True))
