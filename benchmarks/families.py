"""The cases of mixers, of linear attention with each decay, and of attention that sees less."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks.cases import Case, Sizes, make_mixer, normal, pass_cases
from benchmarks.ops import OPS
from seqarch.mixers import MIXERS
from seqarch.ops.attention import FORMS, LEAST
from seqarch.ops.blocks import mean_trips
from seqarch.ops.linear_attention import linear_attention
from seqarch.ops.online_softmax import merge
from seqarch.ops.strided import strided
from seqarch.ops.visibility import Places, Rule
from seqarch.types import Array

LONGER = 4  # how many times as long rows are where only the plan is wanted
BLOCK = 512  # tokens of the largest block
FULL = "full"
NO_DECAY = "no decay"
# What the state of linear attention decays by, and whether a delta rule erases.
DECAYS: dict[str, tuple[str | None, bool]] = {
    NO_DECAY: (None, False),
    "decay per head": ("head", False),
    "decay per channel": ("channel", False),
    "delta rule": (None, True),
    "delta rule, decay per head": ("head", True),
    "delta rule, decay per channel": ("channel", True),
}
# What a token sees, each the union of its rules. `order` says that a row is one document.
SEEN = {
    FULL: (Rule(order="whole"),),
    "window 4096": (Rule(window=4096, order="whole"),),
    "window 1024": (Rule(window=1024, order="whole"),),
    "window 256": (Rule(window=256, order="whole"),),
    "window 512 and stride 64": (Rule(window=512, order="whole"), Rule(beyond=512, stride=64)),
}


def family_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """Yields a list for each mixer: the form that training uses, and its plan in longer rows."""
    B, T = sizes.shapes[-1]

    def args(name: str, tokens: int) -> tuple:
        return make_mixer(name, sizes), normal(B, tokens, sizes.dim)

    for name in MIXERS:
        case = partial(pass_cases, "families", name, fn=lambda mixer, x: mixer(x))
        longer = partial(args, name, LONGER * T)
        plan = case((B, LONGER * T), args=longer, passes=("train",), run=False)
        yield case((B, T), args=partial(args, name, T)) + plan


def decay_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """Yields linear attention with all DECAYS, in the form that a CPU uses."""
    shape = sizes.shapes[-1]
    found = []
    for name, (decay, erases) in DECAYS.items():
        args = partial(_decayed_args, sizes, *shape, decay, erases)
        found += pass_cases("decays", name, shape, _decayed, args)
    yield found


def _decayed_args(
    sizes: Sizes, B: int, T: int, decay: str | None, erases: bool
) -> tuple[Array | None, ...]:
    """Returns q, k, v, the logarithms of decays and the strengths of the delta rule."""
    q, k, v = OPS["linear_attention"].args(sizes, B, T)
    k = k / jnp.linalg.norm(k, axis=-1, keepdims=True)
    shapes = {"head": q.shape[:3], "channel": q.shape}
    g = -jax.nn.softplus(normal(*shapes[decay])) if decay else None
    return q, k, v, g, jax.nn.sigmoid(normal(*q.shape[:3], 1)) if erases else None


def _decayed(
    q: Array, k: Array, v: Array, g: Array | None, strength: Array | None
) -> tuple[Array, Array]:
    """S_t = (I - b k k^T) diag(a) S_{t-1} + b k v^T where b is given, else diag(a) S + k v^T."""
    if strength is None:
        return linear_attention(q, k, v, g)
    r = k if g is None else k * jnp.exp(g.reshape(*q.shape[:3], -1))
    return linear_attention(q, k * strength, v, g, r=r)


def seen_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """Yields attention to all that SEEN says, in the form that a CPU uses."""
    shape = 1, sizes.far
    args = partial(OPS["attention"].args, sizes, *shape)
    found = []
    for name, rules in SEEN.items():
        found += pass_cases("seen", name, shape, _attention(rules), args)
    yield found


def _attention(rules: tuple[Rule, ...]) -> Callable[..., Array]:
    def attend(q: Array, k: Array, v: Array) -> Array:
        shape, form, parts = q.shape[:2], FORMS[FORMS.auto("cpu")], []
        at = Places(jnp.broadcast_to(jnp.arange(shape[1]), shape), jnp.zeros(shape, jnp.int32))
        for rule in rules:
            run = form if rule.stride is None else partial(strided, form)
            given = (at,) if rule.stride else (at, at)
            parts.append(run(q, k, v, *given, rule, block=BLOCK))
        return merge(*parts).o

    return attend


def scored_pairs(name: str, tokens: int) -> float:
    """Returns the pairs of tokens in the blocks that are not empty, for an entry of SEEN."""
    pairs = 0.0
    for rule in SEEN[name]:
        size = min(BLOCK, max(LEAST, min(-(-tokens // 4), rule.window or BLOCK)))
        pairs += tokens * size * mean_trips(-(-tokens // size), size, rule)
    return pairs
