"""The cases of the forms of ops."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.cases import Case, Sizes, normal, pass_cases
from seqarch import ops
from seqarch.ops.attention import FORMS as ATTENTION
from seqarch.ops.forms import Forms
from seqarch.ops.gru import FORMS as GRU
from seqarch.ops.linear_attention import FORMS as LINEAR_ATTENTION
from seqarch.ops.numerics import dot, rows
from seqarch.ops.scan import FORMS as LINEAR_SCAN
from seqarch.ops.selective_scan import FORMS as SELECTIVE_SCAN
from seqarch.types import Array, Float


class Op(NamedTuple):
    """An op with its forms; `call(form, *args)` runs it on the arrays of `args(sizes, B, T)`."""

    forms: Forms
    call: Callable
    args: Callable[[Sizes, int, int], tuple[Array, ...]]


def _heads(sizes: Sizes, B: int, T: int) -> tuple[Array, ...]:
    q, k, v = jnp.split(normal(3 * B, T, sizes.heads, sizes.dim // sizes.heads, scale=0.3), 3)
    return q, k, v


def _selective(sizes: Sizes, B: int, T: int) -> tuple[Array, ...]:
    E, N = 2 * sizes.dim, sizes.state_dim
    A = -jnp.broadcast_to(jnp.arange(1.0, N + 1), (E, N))
    delta = jax.nn.softplus(normal(B, T, E) - 4)
    return normal(B, T, E), delta, A, normal(B, T, N), normal(B, T, N, scale=0.3), normal(E)


def _gru(
    method: str, x: Array, W_in: Array, b_in: Array, W: Array, b: Array
) -> tuple[Array, Array]:
    u = dot("btd,df->btf", x, W_in)
    return ops.gru(u + rows(b_in, u), W, b, jnp.zeros((x.shape[0], W.shape[0])), method=method)


def _gru_args(sizes: Sizes, B: int, T: int) -> tuple[Array, ...]:
    D, weights = sizes.dim, partial(normal, sizes.dim, 3 * sizes.dim, scale=sizes.dim**-0.5)
    return normal(B, T, D), weights(), jnp.zeros(3 * D), weights(), jnp.zeros(3 * D)


OPS = {
    "linear_scan": Op(
        LINEAR_SCAN,
        lambda method, a, b: ops.linear_scan(a, b, method=method),
        lambda sizes, B, T: (jax.nn.sigmoid(normal(B, T, sizes.dim)), normal(B, T, sizes.dim)),
    ),
    "linear_attention": Op(
        LINEAR_ATTENTION, lambda method, *args: ops.linear_attention(*args, method=method), _heads
    ),
    "selective_scan": Op(
        SELECTIVE_SCAN, lambda method, *args: ops.selective_scan(*args, method=method), _selective
    ),
    "gru": Op(GRU, _gru, _gru_args),
    "attention": Op(ATTENTION, lambda method, *args: ops.attention(*args, method=method), _heads),
}


def op_cases(name: str, sizes: Sizes) -> Iterator[list[Case]]:
    """Yields a list for each shape: every form of an op, and what it is compared with."""
    op = OPS[name]
    for shape in sizes.shapes:
        args = partial(op.args, sizes, *shape)
        found = []
        for form in op.forms:
            found += pass_cases(name, form, shape, partial(op.call, form), args)
        if name == "gru":
            found += pass_cases(name, "flax nnx.RNN(GRUCell)", shape, *_flax_gru(sizes, *shape))
        if name == "selective_scan":
            forward = ("forward",)
            found += pass_cases(
                name, "exponentials alone", shape, _exponentials, args, passes=forward
            )
        if shape == sizes.shapes[-1] and name in ("attention", "linear_attention"):
            found += _long_cases(name, sizes, shape[0])
        yield found


def _long_cases(name: str, sizes: Sizes, B: int) -> list[Case]:
    """The form in use at the long shape; attention is only compiled there."""
    op, shape = OPS[name], (B, sizes.long)
    form = op.forms.auto(jax.default_backend())
    call, args = partial(op.call, form), partial(op.args, sizes, *shape)
    return pass_cases(name, form, shape, call, args, run=name == "linear_attention")


def _exponentials(
    x: Array, delta: Float[Array, "B T E"], A: Float[Array, "E N"], *_: Array
) -> Float[Array, "B N E"]:
    """exp(delta_t A) of every token, each written over the one before.

    No selective scan can do without these.
    """
    At = A.T  # transposed outside of the loop, which would else read it with a stride
    step = lambda _, delta: (jnp.exp(delta[:, None, :] * At[None]), None)
    return jax.lax.scan(step, jnp.zeros((x.shape[0], *At.shape)), jnp.moveaxis(delta, 1, 0))[0]


def _flax_gru(sizes: Sizes, B: int, T: int) -> tuple[Callable, Callable]:
    """Flax's GRU, which resets after the product as ours does, and its arguments.

    The initial carry is given, since Flax would draw one with an RNG that it stores.
    """
    graph, params, rest = nnx.split(
        nnx.RNN(nnx.GRUCell(sizes.dim, sizes.dim, rngs=nnx.Rngs(0))), nnx.Param, ...
    )

    def run(params: nnx.State, x: Array) -> Array:
        return nnx.merge(graph, params, rest)(x, initial_carry=jnp.zeros((B, sizes.dim)))

    return run, lambda: (params, normal(B, T, sizes.dim))
