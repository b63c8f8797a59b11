"""What `scripts/bench.py` measures: forms of ops, mixers, train steps, decoding, compilation and generation.

A group yields lists of cases; the cases of a list are timed in turn, so that what is compared ran side by side.
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
from jax.sharding import AxisType

from seqarch import generate, ops
from seqarch.config import Config, ModelConfig
from seqarch.data.loader import Batch
from seqarch.measure.memory import compiled_bytes
from seqarch.measure.programs import DECODED, decode_loop_program, prefill_program, train_program
from seqarch.mixers import MIXERS
from seqarch.model import LanguageModel
from seqarch.ops import affine
from seqarch.ops.attention import FORMS as ATTENTION
from seqarch.ops.forms import Forms
from seqarch.ops.gru import FORMS as GRU
from seqarch.ops.linear_attention import FORMS as LINEAR_ATTENTION
from seqarch.ops.numerics import dot, rows
from seqarch.ops.scan import FORMS as LINEAR_SCAN
from seqarch.ops.selective_scan import FORMS as SELECTIVE_SCAN
from seqarch.training.sharding import init_state
from seqarch.training.state import hyper
from seqarch.types import Array, Float, PyTree

SEGMENT = 4096  # tokens of a prompt that are read at once on the way to a long context
DEEP = ("mamba", "mamba", "attention")  # the pattern whose depth is varied


@dataclasses.dataclass(frozen=True)
class Sizes:
    """dim: D, also the width of the GRU and of the diagonal recurrence, with `heads` heads; Mamba has E = 2 D channels.

    shapes: (B, T); the last one is that of the targets; long: a T that linear attention's time is followed to
    contexts: tokens before decoding; caches: (filled, slots) of attention's; prompts: lengths that are generated from
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
    """run(prepare()) is what is timed, without `prepare`; run is None where only the compiler's plan is wanted.

    temporaries, total: bytes of the compiled program
    """

    run: Callable[[Any], Any] | None
    prepare: Callable[[], Any] = lambda: None
    temporaries: int | None = None
    total: int | None = None


class Case(NamedTuple):
    """pass_: "forward", "train" (forward and backward), "token", "compile" or "plan"; calls: units of work in a run."""

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
    return jnp.asarray(np.random.default_rng(math.prod(shape)).standard_normal(shape, np.float32) * np.float32(scale))


def _heads(sizes: Sizes, B: int, T: int) -> tuple[Array, ...]:
    q, k, v = jnp.split(normal(3 * B, T, sizes.heads, sizes.dim // sizes.heads, scale=0.3), 3)
    return q, k, v


def _selective(sizes: Sizes, B: int, T: int) -> tuple[Array, ...]:
    E, N = 2 * sizes.dim, sizes.state_dim
    A = -jnp.broadcast_to(jnp.arange(1.0, N + 1), (E, N))
    delta = jax.nn.softplus(normal(B, T, E) - 4)
    return normal(B, T, E), delta, A, normal(B, T, N), normal(B, T, N, scale=0.3), normal(E)


def _gru(method: str, x: Array, W_in: Array, b_in: Array, W: Array, b: Array) -> tuple[Array, Array]:
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
    "selective_scan": Op(SELECTIVE_SCAN, lambda method, *args: ops.selective_scan(*args, method=method), _selective),
    "gru": Op(GRU, _gru, _gru_args),
    "attention": Op(ATTENTION, lambda method, *args: ops.attention(*args, method=method), _heads),
}


def cases(group: str, sizes: Sizes) -> Iterator[list[Case]]:
    """The lists of cases of one of GROUPS."""
    yield from GROUPS[group](sizes)


def _op_cases(name: str, sizes: Sizes) -> Iterator[list[Case]]:
    op = OPS[name]
    for B, T in sizes.shapes:
        args = partial(op.args, sizes, B, T)
        found = [case for form in op.forms for case in _passes(name, form, (B, T), partial(op.call, form), args)]
        if name == "gru":
            found += _passes(name, "flax nnx.RNN(GRUCell)", (B, T), *_flax_gru(sizes, B, T))
        if name == "selective_scan":
            found += _passes(name, "exponentials alone", (B, T), _exponentials, args, passes=("forward",))
        if (B, T) == sizes.shapes[-1] and name in ("attention", "linear_attention"):
            form, long = op.forms.auto(jax.default_backend()), sizes.long
            run = name == "linear_attention"
            found += _passes(name, form, (B, long), partial(op.call, form), partial(op.args, sizes, B, long), run=run)
        yield found


def _mixer_cases(sizes: Sizes) -> Iterator[list[Case]]:
    for B, T in sizes.shapes:
        args = lambda name, B, T: (_mixer(name, sizes), normal(B, T, sizes.dim))  # noqa: E731
        yield [
            case
            for name in MIXERS
            for case in _passes("mixers", name, (B, T), lambda mixer, x: mixer(x), partial(args, name, B, T))
        ]


def _mixer(name: str, sizes: Sizes) -> nnx.Module:
    return MIXERS[name](sizes.dim, **dict(_options(name, sizes)), rngs=nnx.Rngs(0))


def _options(name: str, sizes: Sizes) -> Iterator[tuple[str, Any]]:
    if name in ("attention", "linear_attention"):
        yield "heads", sizes.heads
    if name == "mamba":
        yield "state_dim", sizes.state_dim


def _passes(
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
            return _planned(jax.jit(train if pass_ == "train" else fn).lower(*given).compile())
        given = args()
        if pass_ == "train":
            given = given, jax.tree.map(lambda x: normal(*x.shape), jax.eval_shape(fn, *given))
        compiled = jax.jit(train if pass_ == "train" else fn).lower(*given).compile()
        return _planned(compiled)._replace(run=lambda given: compiled(*given), prepare=lambda: given)

    B, T = shape
    return [Case(group, form, f"B{B} T{T}", pass_, partial(start, pass_)) for pass_ in passes]


def _planned(compiled: jax.stages.Compiled) -> Ready:
    bytes_ = compiled_bytes(compiled)
    return Ready(None, temporaries=bytes_.temporaries, total=bytes_.total)


def _exponentials(x: Array, delta: Float[Array, "B T E"], A: Float[Array, "E N"], *_: Array) -> Float[Array, "B N E"]:
    """exp(delta_t A) of every token, each in the place of the one before: what a selective scan can't do without."""
    At = A.T  # transposed outside of the loop, which would else read it with a stride
    step = lambda _, delta: (jnp.exp(delta[:, None, :] * At[None]), None)  # noqa: E731
    return jax.lax.scan(step, jnp.zeros((x.shape[0], *At.shape)), jnp.moveaxis(delta, 1, 0))[0]


def _flax_gru(sizes: Sizes, B: int, T: int) -> tuple[Callable, Callable]:
    """Flax's GRU, reset-after as ours; its initial carry is given, since it would draw one with an RNG that it stores."""
    graph, params, rest = nnx.split(nnx.RNN(nnx.GRUCell(sizes.dim, sizes.dim, rngs=nnx.Rngs(0))), nnx.Param, ...)

    def run(params: nnx.State, x: Array) -> Array:
        return nnx.merge(graph, params, rest)(x, initial_carry=jnp.zeros((B, sizes.dim)))

    return run, lambda: (params, normal(B, T, sizes.dim))


def _decoding_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """Of a model of one layer without MLP: DECODED tokens that end at the context, after a prefill of those before."""

    def start(name: str, filled: int, slots: int) -> Ready:
        model = _one_layer(name, sizes)
        prompt = np.random.default_rng(0).integers(0, 256, filled - DECODED)
        logits, states = generate.prefill(model, [prompt], model.init_state(1, slots), segment=SEGMENT)
        at = generate.Decoding(logits, states, jnp.zeros(1, bool))
        program = decode_loop_program(model, 1, slots)
        compiled = program.fn.trace(*program.args).lower().compile()
        run = lambda at: compiled(model, at, jax.random.key(0))  # noqa: E731
        return _planned(compiled)._replace(run=run, prepare=lambda: jax.tree.map(jnp.copy, at))

    constant = [name for name in MIXERS if jax.eval_shape(partial(_mixer, name, sizes)).constant_state]
    contexts = [(name, n, n) for name in constant for n in sizes.contexts]
    caches = [("attention", *cache) for cache in sizes.caches]
    yield [
        Case("decoding", name, f"{filled} of {slots}", "token", partial(start, name, filled, slots), DECODED)
        for name, filled, slots in contexts + caches
    ]


def _generation_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """The larger of what a prefill's segment and a decoding loop hold, with the states for the whole prompt."""

    def start(name: str, prompt: int) -> Ready:
        model = _one_layer(name, sizes)
        slots = prompt + DECODED
        found = [prefill_program(model, 1, min(512, prompt), slots), decode_loop_program(model, 1, slots)]
        return max((_planned(program.compile(run=False)) for program in found), key=lambda ready: ready.total)

    yield [
        Case("generation", name, f"prompt {n}", "plan", partial(start, name, n)) for name in MIXERS for n in sizes.prompts
    ]


def _one_layer(name: str, sizes: Sizes) -> LanguageModel:
    options = ",".join(f"{key}={value}" for key, value in _options(name, sizes))
    config = ModelConfig(f"{name}({options})", layers=1, dim=sizes.dim, mlp=0)
    return LanguageModel(config, rngs=nnx.Rngs(0)).unstack()


def _train_config(mixer: str, layers: int, sizes: Sizes) -> Config:
    B, T = sizes.train
    return Config(batch=B, length=T, model=ModelConfig(mixer, layers=layers, dim=sizes.dim, mlp=2 * sizes.dim))


def _mesh() -> jax.sharding.Mesh:
    return jax.make_mesh((1, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:1])


def _train_step_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """A whole step, optimizer included, of two layers with MLPs; on one device."""

    def start(name: str) -> Ready:
        config, mesh = _train_config(name, 2, sizes), _mesh()
        tokens = np.random.default_rng(0).integers(0, 256, (config.batch, config.length + 1), np.int32)
        batch = Batch(tokens[:, :-1], tokens[:, 1:], np.zeros(sizes.train, bool), np.ones(sizes.train, np.float32))
        state = init_state(config, mesh, jax.random.key(0))
        compiled = train_program(config, mesh).compile()
        run = lambda state: compiled(state, batch, hyper(config))  # noqa: E731
        return _planned(compiled)._replace(run=run, prepare=lambda: jax.tree.map(jnp.copy, state))

    B, T = sizes.train
    yield [Case("train_step", name, f"B{B} T{T}", "train", partial(start, name)) for name in MIXERS]


def _compile_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """Tracing, lowering and compiling a train step, each time anew, by depth."""

    def start(layers: int) -> Ready:
        config = _train_config(",".join(DEEP), layers, sizes)
        return Ready(lambda program: program.compile() and None, lambda: train_program(config, _mesh()))

    yield [Case("compile", f"{n} layers", "train step", "compile", partial(start, n)) for n in sizes.depths]


GROUPS: dict[str, Callable[[Sizes], Iterator[list[Case]]]] = {
    **{name: partial(_op_cases, name) for name in OPS},
    "mixers": _mixer_cases,
    "train_step": _train_step_cases,
    "decoding": _decoding_cases,
    "compile": _compile_cases,
    "generation": _generation_cases,
}
