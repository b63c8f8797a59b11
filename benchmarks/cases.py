"""What `scripts/bench.py` measures: forms of ops and whole mixers here, train steps and the rest in
bench_programs.

A group yields lists of cases; the cases of a list are timed in turn, so that what is compared ran
side by side.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqarch import ops
from seqarch.costs.compiler import compiled_bytes
from seqarch.mixers import MIXERS
from seqarch.mixers.mamba import Mamba
from seqarch.ops.attention import FORMS as ATTENTION
from seqarch.ops.forms import Forms
from seqarch.ops.gru import FORMS as GRU
from seqarch.ops.linear_attention import FORMS as LINEAR_ATTENTION
from seqarch.ops.numerics import dot, rows
from seqarch.ops.scan import FORMS as LINEAR_SCAN
from seqarch.ops.selective_scan import FORMS as SELECTIVE_SCAN
from seqarch.types import Array, Float, PyTree


@dataclasses.dataclass(frozen=True)
class Sizes:
    """dim: D, also the width of the GRU and of the diagonal recurrence, with `heads` heads; Mamba
    has E = 2 D channels.

    shapes: (B, T); the last one is that of the targets; long: a T that linear attention's time is
      followed to
    contexts: tokens before decoding; caches: (filled, slots) of attention's; prompts: lengths that
      are generated from
    depths: layers, multiples of the pattern's length; train: (B, T) of a train step
    """

    dim: int = 256
    heads: int = 4
    state_dim: int = 16
    shapes: tuple[tuple[int, int], ...] = ((8, 512), (1, 4096))
    long: int = 65536
    contexts: tuple[int, int] = (1024, 1 << 20)
    caches: tuple[tuple[int, int], ...] = ((1024, 1024), (1024, 65536), (32768, 65536))
    prompts: tuple[int, ...] = (4096, 65536, 1 << 20)
    depths: tuple[int, int] = (3, 24)
    train: tuple[int, int] = (8, 512)


class Ready(NamedTuple):
    """run(prepare()) is what is timed, without `prepare`; run is None where only the compiler's
    plan is wanted.

    temporaries, total: bytes of the compiled program
    """

    run: Callable[[Any], Any] | None
    prepare: Callable[[], Any] = lambda: None
    temporaries: int | None = None
    total: int | None = None


class Case(NamedTuple):
    """pass_: "forward", "train" (forward and backward), "token", "compile" or "plan"; calls: units
    of work in a run.
    """

    group: str
    form: str
    shape: str
    pass_: str
    start: Callable[[], Ready]
    calls: int = 1


class Op(NamedTuple):
    """call(method, *args) -> outputs; args(sizes, B, T) -> arrays."""

    forms: Forms
    call: Callable
    args: Callable[[Sizes, int, int], tuple[Array, ...]]


def normal(*shape: int, scale: float = 1.0) -> Array:
    return jnp.asarray(
        np.random.default_rng(math.prod(shape)).standard_normal(shape, np.float32)
        * np.float32(scale)
    )


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
    op = OPS[name]
    for B, T in sizes.shapes:
        args = partial(op.args, sizes, B, T)
        found = [
            case
            for form in op.forms
            for case in pass_cases(name, form, (B, T), partial(op.call, form), args)
        ]
        if name == "gru":
            found += pass_cases(name, "flax nnx.RNN(GRUCell)", (B, T), *_flax_gru(sizes, B, T))
        if name == "selective_scan":
            found += pass_cases(
                name, "exponentials alone", (B, T), _exponentials, args, passes=("forward",)
            )
        if (B, T) == sizes.shapes[-1] and name in ("attention", "linear_attention"):
            form, long = op.forms.auto(jax.default_backend()), sizes.long
            run = name == "linear_attention"
            found += pass_cases(
                name,
                form,
                (B, long),
                partial(op.call, form),
                partial(op.args, sizes, B, long),
                run=run,
            )
        yield found


def mixer_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """Every mixer in every form, and Mamba without its scan."""
    for B, T in sizes.shapes:
        makes = {
            label: partial(make_mixer, name, sizes, form)
            for name in MIXERS
            for label, form in labelled_forms(name).items()
        } | {UNSCANNED: lambda: Unscanned(sizes.dim, state_dim=sizes.state_dim, rngs=nnx.Rngs(0))}
        args = lambda make, B, T: (make(), normal(B, T, sizes.dim))
        yield [
            case
            for form, make in makes.items()
            for case in pass_cases(
                "mixers", form, (B, T), lambda mixer, x: mixer(x), partial(args, make, B, T)
            )
        ]


UNSCANNED = "mamba, a product in the scan's place"


class Unscanned(Mamba):
    """What a layer of Mamba costs beside its selective scan: a product of the same operands, token
    by token, is there instead.
    """

    def _scan(self, u, delta, B, C, h, starts):
        return (u * delta + rows(self.D[...], u) * u) * (B * C).sum(-1, keepdims=True), h


def labelled_forms(name: str) -> dict[str, str | None]:
    """Returns the forms of a mixer by the labels of their figures; one, None, where it has none."""
    forms = MIXERS[name].forms
    return {f"{name}, {form}": form for form in forms} if forms else {name: None}


def make_mixer(name: str, sizes: Sizes, method: str | None = None) -> nnx.Module:
    options = dict(options_of(name, sizes)) | ({"method": method} if method else {})
    return MIXERS[name](sizes.dim, **options, rngs=nnx.Rngs(0))


def is_constant(name: str, sizes: Sizes) -> bool:
    """Whether its state is of one size at every context."""
    return jax.eval_shape(partial(make_mixer, name, sizes)).constant_state


def options_of(name: str, sizes: Sizes) -> Iterator[tuple[str, Any]]:
    if name in ("attention", "linear_attention"):
        yield "heads", sizes.heads
    if name == "mamba":
        yield "state_dim", sizes.state_dim


def pass_cases(
    group: str,
    form: str,
    shape: tuple[int, int],
    fn: Callable,
    args: Callable[[], tuple[PyTree, ...]],
    *,
    passes: tuple[str, ...] = ("forward", "train"),
    run: bool = True,
) -> list[Case]:
    """Forward, and forward with the gradient with respect to every argument."""

    def train(args: tuple[PyTree, ...], cotangents: PyTree) -> PyTree:
        outputs, pull = jax.vjp(fn, *args)
        return outputs, pull(cotangents)

    def start(pass_: str) -> Ready:
        if not run:
            given = jax.eval_shape(args)
            given = (given, jax.eval_shape(fn, *given)) if pass_ == "train" else given
            return planned(jax.jit(train if pass_ == "train" else fn).lower(*given).compile())
        given = args()
        if pass_ == "train":
            given = given, jax.tree.map(lambda x: normal(*x.shape), jax.eval_shape(fn, *given))
        compiled = jax.jit(train if pass_ == "train" else fn).lower(*given).compile()
        return planned(compiled)._replace(run=lambda given: compiled(*given), prepare=lambda: given)

    B, T = shape
    return [Case(group, form, f"B{B} T{T}", pass_, partial(start, pass_)) for pass_ in passes]


def planned(compiled: jax.stages.Compiled) -> Ready:
    bytes_ = compiled_bytes(compiled)
    return Ready(None, temporaries=bytes_.temporaries, total=bytes_.total)


def _exponentials(
    x: Array, delta: Float[Array, "B T E"], A: Float[Array, "E N"], *_: Array
) -> Float[Array, "B N E"]:
    """exp(delta_t A) of every token, each in the place of the one before: what a selective scan
    can't do without.
    """
    At = A.T  # transposed outside of the loop, which would else read it with a stride
    step = lambda _, delta: (jnp.exp(delta[:, None, :] * At[None]), None)
    return jax.lax.scan(step, jnp.zeros((x.shape[0], *At.shape)), jnp.moveaxis(delta, 1, 0))[0]


def _flax_gru(sizes: Sizes, B: int, T: int) -> tuple[Callable, Callable]:
    """Flax's GRU, reset-after as ours; its initial carry is given, since it would draw one with an
    RNG that it stores.
    """
    graph, params, rest = nnx.split(
        nnx.RNN(nnx.GRUCell(sizes.dim, sizes.dim, rngs=nnx.Rngs(0))), nnx.Param, ...
    )

    def run(params: nnx.State, x: Array) -> Array:
        return nnx.merge(graph, params, rest)(x, initial_carry=jnp.zeros((B, sizes.dim)))

    return run, lambda: (params, normal(B, T, sizes.dim))
