"""What a case is, and the cases of mixers.

`benchmarks.ops` has the cases of ops, and `benchmarks.programs` those of whole models.

A group yields lists of cases. The cases of a list are timed in turn, so that those that are
compared run side by side.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqarch.costs.compiler import compiled_bytes
from seqarch.mixers import MIXERS, resolve_mixer
from seqarch.mixers.mamba import Mamba
from seqarch.ops.numerics import rows
from seqarch.types import Array, PyTree

PASSES = ("forward", "train")  # train is forward and backward


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of all cases.

    Attributes:
      dim: the width D, also of the GRU and of the diagonal recurrence; Mamba has E = 2 D channels.
      heads: of attention and linear attention.
      state_dim: N of Mamba.
      shapes: (B, T) of ops and mixers; targets are of the last one.
      long: a T at which attention and linear attention are measured too.
      far: the T of attention that sees less.
      solved: the T of cells that Newton's method solves.
      contexts: tokens before decoding with a constant state.
      caches: (filled, slots) of attention's caches in decoding.
      prompts: tokens of prompts in generation.
      depths: layers of compiled train steps, multiples of the pattern's length.
      train: (B, T) of a train step.
      sweep_runs: runs of a sweep.
      sweep_steps: steps of its runs, two numbers.
    """

    dim: int = 256
    heads: int = 4
    state_dim: int = 16
    shapes: tuple[tuple[int, int], ...] = ((8, 512), (1, 4096))
    long: int = 65536
    far: int = 16384
    solved: tuple[int, ...] = (256, 1024, 4096, 16384)
    contexts: tuple[int, int] = (1024, 1 << 20)
    caches: tuple[tuple[int, int], ...] = ((1024, 1024), (1024, 65536), (32768, 65536))
    prompts: tuple[int, ...] = (4096, 65536, 1 << 20)
    depths: tuple[int, int] = (3, 24)
    train: tuple[int, int] = (8, 512)
    sweep_runs: int = 8
    sweep_steps: tuple[int, int] = (50, 250)


class Ready(NamedTuple):
    """A case that is compiled.

    Attributes:
      run: what is timed; None where only the compiler's plan is wanted.
      prepare: makes the argument of `run`, outside of the time.
      temporaries: bytes of the compiled program's temporaries.
      total: bytes of the compiled program.
      counts: of what it does, by metric.
    """

    run: Callable[[Any], Any] | None
    prepare: Callable[[], Any] = lambda: None
    temporaries: int | None = None
    total: int | None = None
    counts: Mapping[str, int] = MappingProxyType({})


class Case(NamedTuple):
    """One thing to measure.

    Attributes:
      group: its name in `benchmarks.programs.GROUPS`.
      form: the form of an op, a mixer or a peer.
      shape: in words.
      pass_: "forward", "train" (forward and backward), "token", "compile", "plan" or "sweep".
      start: compiles it.
      calls: units of work in a run.
    """

    group: str
    form: str
    shape: str
    pass_: str
    start: Callable[[], Ready]
    calls: int = 1


def normal(*shape: int, scale: float = 1.0) -> Array:
    """Returns float32 numbers from a normal distribution; a shape always gives the same ones."""
    rng = np.random.default_rng(math.prod(shape))
    return jnp.asarray(rng.standard_normal(shape, np.float32) * np.float32(scale))


def mixer_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """Yields a list for each shape and mixer: all its forms, and Mamba also without its scan.

    The compiled programs of a list are held at once, and a process fails to hold those of all
    mixers.
    """
    args = lambda make, B, T: (make(), normal(B, T, sizes.dim))
    call = lambda mixer, x: mixer(x)
    for shape, name in itertools.product(sizes.shapes, MIXERS):
        makes: dict[str, Callable[[], nnx.Module]] = {
            label: partial(make_mixer, name, sizes, form)
            for label, form in labelled_forms(name).items()
        }
        if name == "mamba":
            makes[UNSCANNED] = partial(_unscanned, sizes)
        found = []
        for form, make in makes.items():
            found += pass_cases("mixers", form, shape, call, partial(args, make, *shape))
        yield found


UNSCANNED = "mamba, a product in the scan's place"


class Unscanned(Mamba):
    """Mamba with a product of the same operands, token by token, instead of its selective scan.

    It shows what the rest of the layer costs.
    """

    def _scan(self, u, delta, B, C, h, starts):
        return (u * delta + rows(self.D[...], u) * u) * (B * C).sum(-1, keepdims=True), h


def _unscanned(sizes: Sizes) -> Unscanned:
    return Unscanned(sizes.dim, state_dim=sizes.state_dim, rngs=nnx.Rngs(0))


def labelled_forms(name: str) -> dict[str, str | None]:
    """Returns the forms of a mixer by label; a mixer without forms has one, None."""
    forms = resolve_mixer(name).forms
    return {f"{name}, {form}": form for form in forms} if forms else {name: None}


def make_mixer(name: str, sizes: Sizes, method: str | None = None) -> nnx.Module:
    """Returns a mixer of MIXERS in these sizes, in its default form where `method` is None."""
    options = dict(options_of(name, sizes)) | ({"method": method} if method else {})
    return resolve_mixer(name)(sizes.dim, **options, rngs=nnx.Rngs(0))


def is_constant(name: str, sizes: Sizes) -> bool:
    """Returns whether the state of a mixer has the same size at every context."""
    return jax.eval_shape(partial(make_mixer, name, sizes)).constant_state


def options_of(name: str, sizes: Sizes) -> Iterator[tuple[str, Any]]:
    """Yields the options of a mixer that depend on the sizes."""
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
    passes: tuple[str, ...] = PASSES,
    run: bool = True,
) -> list[Case]:
    """Returns a case for each pass: forward, and forward with the gradient of every argument.

    Args:
      fn: takes the arrays that `args` returns.
      run: whether programs run; otherwise they are only compiled.
    """
    programs = passes_of(fn)

    def start(pass_: str) -> Ready:
        if not run:
            given = jax.eval_shape(args)
            given = (given, jax.eval_shape(fn, *given)) if pass_ == "train" else given
            return planned(jax.jit(programs[pass_]).lower(*given).compile())
        given = args()
        if pass_ == "train":
            given = given, jax.tree.map(lambda x: normal(*x.shape), jax.eval_shape(fn, *given))
        compiled = jax.jit(programs[pass_]).lower(*given).compile()
        return planned(compiled)._replace(run=lambda given: compiled(*given), prepare=lambda: given)

    B, T = shape
    return [Case(group, form, f"B{B} T{T}", pass_, partial(start, pass_)) for pass_ in passes]


def passes_of(fn: Callable) -> dict[str, Callable]:
    """Returns the functions of passes: "forward" is `fn`.

    "train" takes the arguments of `fn` as a tuple, and cotangents of its outputs; it returns the
    outputs and the gradient of every argument.
    """

    def train(args: tuple[PyTree, ...], cotangents: PyTree) -> PyTree:
        outputs, pull = jax.vjp(fn, *args)
        return outputs, pull(cotangents)

    return {"forward": fn, "train": train}


def planned(compiled: jax.stages.Compiled) -> Ready:
    """Returns the bytes of a compiled program, without anything to run."""
    bytes_ = compiled_bytes(compiled)
    return Ready(None, temporaries=bytes_.temporaries, total=bytes_.total)
