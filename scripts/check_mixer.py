"""Says of a mixer of your own what holds and what fails: python scripts/check_mixer.py
my_package.module:MyMixer

Options stand in parentheses, as in a layer pattern: "my_package.module:MyMixer(heads=2)". The law's
clauses a line each: its forms agree in values and gradients, gradients are finite differences that
no parameter lacks, bfloat16 does not drift, large inputs stay finite, states can be reused. Then
the bytes of its state, and whether it learns a task that needs a memory. Exit code 1 where
anything fails; some minutes on two CPU cores.
"""

import math
import sys
import traceback
from functools import partial

from absl import flags

import _root  # noqa: F401
from seqarch.runtime import cli

DIM = flags.DEFINE_integer("dim", 16, "Width that the law is checked at.", lower_bound=1)
TIME = flags.DEFINE_integer(
    "time", 21, "Tokens of its sequences: more than 8, and no multiple of 8.", lower_bound=4
)
STEPS = flags.DEFINE_integer("steps", 100, "Of the training.", lower_bound=10)

WIDTH, CONTEXTS = 64, (1024, 65536)  # of the training's model; of the states
LETTERS, SUBSET = 16, 4  # of the training's alphabet; of which each row uses so many
ROWS, LENGTH = 16, 64  # of a training batch
CLEARLY = 0.9  # of the best loss without memory, below which the training must end
HINTS = {
    "carry": (
        "return from both a state like init_state's, cast back to its dtypes, and name its "
        "arrays' axes in state_axes"
    ),
    "causal": (
        "something reads ahead, such as a roll, a symmetric window or a missing mask, or mixes rows"
    ),
    "step": (
        "one of the two sees other tokens or another state: prefill must start from the given "
        "state and read no later token, and step must update before its output exactly where "
        "prefill does"
    ),
    "halves": (
        "prefill must start from the given state, count positions on from it, and return the "
        "state after the last of `lengths` tokens"
    ),
    "lengths": (
        "tokens beyond `lengths` must leave the state as it is, with a decay of 1 and an "
        "update of 0"
    ),
    "starts": (
        "where `starts` is True the past must be forgotten before the token: the state that "
        "came in, and every window, convolution or cache that reaches back; beyond `lengths` "
        "it must not: starts & valid_tokens(lengths, B, T)"
    ),
    "call": "leave __call__ to SequenceMixer, or let it do what prefill does",
    "splits": "look at sequences of one token, and at lengths that are no multiple of a chunk",
    "bfloat16": "keep decays, normalisers, softmax and the state in float32",
    "bfloat16_step": (
        "keep a recurrent state in float32, whatever `dtype` is: small updates are lost in bfloat16"
    ),
    "long": "look at what is handed from one chunk or block to the next",
    "axes": "give each nnx.Param axes=(...), a logical name or None for each dimension",
    "used": "remove the parameter, or look for a stop_gradient or a product with zero",
    "differences": "look for stop_gradient, custom_vjp rules and rounding in the backward pass",
    "large": "subtract the maximum before exp, or bound what goes into it",
    "reuse": (
        "keep everything about the past in the state, with the batch as the first axis of "
        "every array"
    ),
}


def main(pattern: str) -> None:
    from seqarch import laws
    from seqarch.errors import UserError
    from seqarch.mixers import resolve_mixer
    from seqarch.patterns import parse_pattern

    layers = parse_pattern(pattern)
    if len(layers) > 1:
        raise UserError(f"{pattern!r} is {len(layers)} mixers; give one")
    mixer = resolve_mixer(layers[0].mixer)
    make = partial(mixer, DIM.value, **dict(layers[0].options))
    clauses = laws.clauses(make, dim=DIM.value, time=TIME.value)
    print(f"{layers[0]}: the law at width {DIM.value} over {TIME.value} tokens", flush=True)
    tests = [(clause.says, HINTS[clause.name], clause.test) for clause in clauses]
    make = partial(mixer, WIDTH, **dict(layers[0].options))
    tests += [("its state can be measured", "look at init_state", partial(state, make))]
    tests += [
        (
            "it learns",
            "look for gradients that vanish or are not finite",
            partial(learn, pattern, STEPS.value),
        )
    ]
    held = []
    for says, hint, test in tests:
        why = (
            f"Probably: {hint}"
            if all(held)
            else f"If that does not follow from what fails above: {hint}"
        )
        held.append(said(says, why, test, mixer))
    print(
        f"{sum(held)} of {len(held)} hold" + "; begin with the first that fails" * (not all(held))
    )
    if not all(held):
        sys.exit(1)


def said(says: str, why: str, test, mixer: type) -> bool:
    """Prints in one line whether `test` passes, and where it does not, how and why; a mixer may
    fail it in any way.
    """
    from seqarch.errors import UserError
    from seqarch.laws import LawBroken

    try:
        found = test()
    except UserError:
        raise
    except LawBroken as broken:
        reason = f"{str(broken).removeprefix(f'{says}: ')}. {why}."
    except Exception as error:  # noqa: BLE001
        reason = (
            f"{type(error).__name__}{place(error, mixer)}: "
            f"{(str(error).strip() or 'without a word').splitlines()[0]}"
        )
    else:
        print(f"holds  {says}" + f": {found}" * bool(found), flush=True)
        return True
    print(f"FAILS  {says}: {reason}", flush=True)
    return False


def place(error: Exception, mixer: type) -> str:
    """Where in the mixer's file the error came from, as far as that is on its way."""
    import inspect

    file = inspect.getsourcefile(mixer)
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == file
    ]
    return f" in line {lines[-1]} of {file}" if lines else ""


def state(make) -> str:
    """The bytes of one sequence's state, by the shapes that init_state makes."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from seqarch.costs.memory import tree_bytes
    from seqarch.report.formats import format_bytes

    mixer = make(dtype=jnp.float32, rngs=nnx.Rngs(0))
    sizes = [
        tree_bytes(jax.eval_shape(lambda: mixer.init_state(1, context))) for context in CONTEXTS
    ]  # noqa: B023
    shown = ", ".join(
        f"{format_bytes(size)} after {n:,} tokens" for size, n in zip(sizes, CONTEXTS, strict=True)
    )
    return f"{shown}, at width {WIDTH}; " + ("constant" if sizes[0] == sizes[1] else "it grows")


def learn(pattern: str, steps: int) -> str:
    """Trains two such layers on rows drawn from a subset of the letters that differs in each row.

    A model that sees the current letter alone cannot do better than the entropy of a next letter
    given it; one that remembers the row's letters can, and the losses must end clearly below.
    """
    from seqarch.laws import LawBroken

    losses = train(pattern, steps)
    if not all(map(math.isfinite, losses)):
        raise LawBroken("losses or gradients that are not finite")
    # the current letter comes again with chance 1 / SUBSET; others are alike
    again, other = 1 / SUBSET, (1 - 1 / SUBSET) / (LETTERS - 1)
    forgetful = -again * math.log(again) - (LETTERS - 1) * other * math.log(other)
    last = sum(losses[-5:]) / 5
    found = (
        f"{last:.2f} nats in the last 5 of {len(losses)} steps; {forgetful:.2f} is the best "
        f"without memory, {math.log(SUBSET):.2f} with"
    )
    if not last < CLEARLY * forgetful:
        raise LawBroken(found)
    return found


def train(pattern: str, steps: int) -> list[float]:
    """Returns the losses of the training steps; NaN from the first that is not finite."""
    import jax

    from seqarch.config import Config, ModelConfig, OptimConfig
    from seqarch.training.state import hyper, make_init, make_train_step

    model = ModelConfig(pattern, layers=2, dim=WIDTH, mlp=0, vocab=LETTERS)
    optim = OptimConfig(lr=1e-2, warmup=steps // 10)
    config = Config(steps, ROWS, LENGTH, model=model, optim=optim)
    state = jax.jit(make_init(config))(jax.random.key(0))
    step, losses = jax.jit(make_train_step(config)), []
    for index in range(steps):
        state, metrics = step(state, subset_batch(index), hyper(config))
        losses.append(math.nan if metrics["refused"] else float(metrics["loss"]))
    return losses


def subset_batch(seed: int):
    """Returns a batch whose rows are uniform draws from SUBSET of LETTERS, chosen for each row."""
    import numpy as np

    from seqarch.tasks.text.loader import Batch

    random = np.random.default_rng(seed)
    letters = random.permuted(np.tile(np.arange(LETTERS), (ROWS, 1)), axis=1)[:, :SUBSET]
    drawn = random.integers(SUBSET, size=(ROWS, LENGTH + 1))
    tokens = np.take_along_axis(letters, drawn, axis=1).astype(np.int32)
    starts = np.zeros((ROWS, LENGTH), bool)
    return Batch(tokens[:, :-1], tokens[:, 1:], starts, np.ones((ROWS, LENGTH), np.float32))


if __name__ == "__main__":
    cli.run(main, positional=("PACKAGE.MODULE:CLASS",))
