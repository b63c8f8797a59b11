"""The clauses about precision, range and long sequences."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch.decoding import fork
from seqarch.laws.compare import require_close, require_close_rms, require_finite
from seqarch.laws.readings import Example, called, capacity, masked, prefill, steps
from seqarch.laws.trial import Trial
from seqarch.mixers.base import SequenceMixer
from seqarch.types import Array, PyTree

BFLOAT16_TOLERANCE = 0.05  # rms error as a fraction of the float32 result's rms
BFLOAT16_PARAMETERS_TOLERANCE = 0.1  # likewise, for gradients of parameters
BFLOAT16_STEPS_TOLERANCE = 0.03  # likewise, for steps; correct mixers have at most 0.012
BFLOAT16_TIME = 2048  # tokens
LONG_ROWS = 3
LARGE = 30.0  # factor of the inputs
LARGE_TOLERANCE = 1e-2  # as a fraction of the largest entry
PREFILL, STEPS = jax.jit(masked), jax.jit(steps)


def bfloat16_is_close(trial: Trial) -> None:
    """Requires bfloat16 outputs and gradients to be close to those of float32 over many tokens."""

    @partial(jax.jit, static_argnums=1)
    def outputs(mixer: SequenceMixer, dtype, x: Array, weight: Array) -> tuple[Array, PyTree]:
        def call(mixer: SequenceMixer, x: Array) -> Array:
            return mixer(x.astype(dtype)).astype(jnp.float32)

        y, pullback = jax.vjp(call, mixer, x)
        return y, pullback(weight)

    def rounded() -> PyTree:
        mixer, inputs = _round((mixers[0], x))
        return split(outputs(mixer, jnp.float32, inputs, weight))

    def split(result: tuple[Array, PyTree]) -> tuple[PyTree, PyTree]:
        y, (parameters, dx) = result
        return {"values": y, "gradients": (None, dx)}, {"gradients": (parameters,)}

    keys = jax.random.split(jax.random.key(0))
    x, weight = (jax.random.normal(key, (1, BFLOAT16_TIME, trial.dim)) for key in keys)
    dtypes = (jnp.float32, jnp.bfloat16)
    mixers = [trial.make(dtype=dtype, rngs=nnx.Rngs(0)) for dtype in dtypes]
    exact, rough = (split(outputs(*each, x, weight)) for each in zip(mixers, dtypes, strict=True))
    says = f"bfloat16 against float32 over {BFLOAT16_TIME} tokens"
    tolerances = (BFLOAT16_TOLERANCE, BFLOAT16_PARAMETERS_TOLERANCE)
    for index, tolerance in enumerate(tolerances):
        reference = lambda index=index: rounded()[index]
        require_close_rms(says, exact[index], rough[index], tolerance, reference)


def _round(arguments: PyTree) -> PyTree:
    """Returns the arguments as bfloat16 holds them, in float32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype), arguments)


def bfloat16_steps_are_prefill(trial: Trial) -> None:
    """Requires bfloat16 steps over many tokens to be close to a float32 prefill.

    A state that is rounded to bfloat16 at each token loses small updates and drifts. Choices may
    change already where the arguments are rounded.
    """
    mixer, x, *rest = _long_example(trial)
    rough = trial.make(dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    empty = rough.init_state(len(x), capacity(x.shape[1]))

    def whole_row(values: PyTree) -> PyTree:
        return {"values": fork(values, jnp.arange(1))}

    expected = whole_row(PREFILL(mixer, x, *rest))
    given = whole_row(STEPS(rough, x.astype(jnp.bfloat16), empty, *rest[1:]))
    says = f"bfloat16 steps against float32 prefill over {x.shape[1]} tokens"
    rounded = lambda: whole_row(PREFILL(*_round((mixer, x)), *rest))
    how = BFLOAT16_STEPS_TOLERANCE, rounded if mixer.piecewise else None
    require_close_rms(says, expected, given, *how)


def long_readings_agree(trial: Trial) -> None:
    """Requires step, prefill and a call to agree on sequences beyond the mixer's chunk and block.

    Rows have several documents and end in padding. A call must not depend on a later token.
    """
    given = _long_example(trial)
    x, T = given.x, given.x.shape[1]
    says = f"over {T} tokens, a scan of step is prefill"
    require_close(says, {"values": STEPS(*given)}, {"values": PREFILL(*given)})
    call = jax.jit(called)
    whole, _ = PREFILL(*given.unpadded())
    outputs, _ = call(*given)
    require_close(f"over {T} tokens, a call is prefill", {"values": whole}, {"values": outputs})
    half = T // 2
    moved, _ = call(*given._replace(x=x.at[:, half:].set(3 - 2 * x[:, half:])))
    says = f"over {T} tokens, a call reads no later token"
    require_close(says, {"values": outputs[:, :half]}, {"values": moved[:, :half]})


def _long_example(trial: Trial) -> Example:
    """Returns rows of inputs that are longer than any chunk or block of the mixer.

    The first one is one document; others have several, and end in padding. Errors add up in a state
    of constant size, hence many tokens. A state that grows has each token apart, so fewer are
    enough, and their cost is the square of their number.
    """
    mixer = trial.make(dtype=jnp.float32, rngs=nnx.Rngs(0))
    sizes = [1024 if mixer.constant_state else 512]
    for _, module in nnx.iter_modules(mixer):
        for name in ("chunk", "block"):
            size = getattr(module, name, None)
            if isinstance(size, int):
                sizes.append(size)
    B, T = LONG_ROWS, max(sizes) + 6
    x = jax.random.normal(jax.random.key(0), (B, T, trial.dim))
    starts = jax.random.bernoulli(jax.random.key(1), 4 / T, (B, T)).at[0].set(False)
    lengths = jnp.linspace(T, T // 2, B).astype(jnp.int32)
    return Example(mixer, x, mixer.init_state(B, capacity(T)), starts, lengths, lengths)


def large_inputs_are_finite(trial: Trial) -> None:
    """Requires finite values and gradients for large inputs, and step to be close to prefill."""
    example = trial.last.unpacked().unpadded()
    example = example._replace(x=LARGE * example.x)
    results = [trial.evaluate(reading, example) for reading in (prefill, steps)]
    says = f"inputs {LARGE:g} times larger"
    for result in results:
        require_finite(says, result)
    expected, given = ({"values": result.values} for result in results)
    require_close(f"{says}, step against prefill", expected, given, LARGE_TOLERANCE)
