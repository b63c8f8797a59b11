"""Says of a mixer of your own what holds and what fails: python scripts/check_mixer.py my_package.module:MyMixer

Options stand in parentheses, as in a layer pattern: "my_package.module:MyMixer(heads=2)". The law's clauses a line each,
then the bytes of its state, and whether it learns: a few dozen steps on Shakespeare's bytes. Exit code 1 where anything
fails; some minutes on two CPU cores.
"""

import math
import sys
import tempfile
import traceback
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from absl import flags

from seqarch import cli

DIM = flags.DEFINE_integer("dim", 16, "Width that the law is checked at.", lower_bound=1)
TIME = flags.DEFINE_integer("time", 70, "Tokens of its sequences: beyond the mixer's chunk, and no multiple.", lower_bound=4)
STEPS = flags.DEFINE_integer("steps", 40, "Of the training.", lower_bound=10)
DATA = flags.DEFINE_string("data", "shakespeare", "The text to train on, as --config.data.path takes it.")

WIDTH, CONTEXTS = 64, (1024, 65536)  # of the training's model; of the states
HINTS = {
    "carry": "return from both a state like init_state's, cast back to its dtypes, and name its arrays' axes in state_axes",
    "causal": "something reads ahead, such as a roll, a symmetric window or a missing mask, or mixes rows",
    "step": "one of the two sees other tokens or another state: prefill must start from the given state and read no later "
    "token, and step must update before its output exactly where prefill does",
    "halves": "prefill must start from the given state, count positions on from it, and return the state after the last of "
    "`lengths` tokens",
    "lengths": "tokens beyond `lengths` must leave the state as it is, with a decay of 1 and an update of 0",
    "starts": "where `starts` is True the past must be forgotten before the token: the state that came in, and every "
    "window, convolution or cache that reaches back; beyond `lengths` it must not: starts & valid_tokens(lengths, B, T)",
    "call": "leave __call__ to SequenceMixer, or let it do what prefill does",
    "splits": "look at sequences of one token, and at lengths that are no multiple of a chunk",
    "bfloat16": "keep decays, normalisers, softmax and the state in float32",
    "bfloat16_step": "keep a recurrent state in float32, whatever `dtype` is: small updates are lost in bfloat16",
    "long": "look at what is handed from one chunk or block to the next",
    "axes": "give each nnx.Param axes=(...), a logical name or None for each dimension",
    "used": "remove the parameter, or look for a stop_gradient or a product with zero",
    "differences": "look for stop_gradient, custom_vjp rules and rounding in the backward pass",
    "large": "subtract the maximum before exp, or bound what goes into it",
    "reuse": "keep everything about the past in the state, with the batch as the first axis of every array",
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
    tests += [("it learns", "look for gradients that vanish or are not finite", partial(learn, pattern))]
    held = []
    for says, hint, test in tests:
        why = f"Probably: {hint}" if all(held) else f"If that does not follow from what fails above: {hint}"
        held.append(said(says, why, test, mixer))
    print(f"{sum(held)} of {len(held)} hold" + "; begin with the first that fails" * (not all(held)))
    if not all(held):
        sys.exit(1)


def said(says: str, why: str, test, mixer: type) -> bool:
    """Prints in one line whether `test` passes, and where it does not, how and why; a mixer may fail it in any way."""
    from seqarch.errors import UserError
    from seqarch.laws import LawBroken

    try:
        found = test()
    except UserError:
        raise
    except LawBroken as broken:
        reason = f"{str(broken).removeprefix(f'{says}: ')}. {why}."
    except Exception as error:  # noqa: BLE001
        reason = f"{type(error).__name__}{place(error, mixer)}: {(str(error).strip() or 'without a word').splitlines()[0]}"
    else:
        print(f"holds  {says}" + f": {found}" * bool(found), flush=True)
        return True
    print(f"FAILS  {says}: {reason}", flush=True)
    return False


def place(error: Exception, mixer: type) -> str:
    """Where in the mixer's file the error came from, as far as that is on its way."""
    import inspect

    file = inspect.getsourcefile(mixer)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" in line {lines[-1]} of {file}" if lines else ""


def state(make) -> str:
    """The bytes of one sequence's state, by the shapes that init_state makes."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from seqarch.measure.memory import tree_bytes
    from seqarch.measure.tables import format_bytes

    mixer = make(dtype=jnp.float32, rngs=nnx.Rngs(0))
    sizes = [tree_bytes(jax.eval_shape(lambda: mixer.init_state(1, context))) for context in CONTEXTS]  # noqa: B023
    shown = ", ".join(f"{format_bytes(size)} after {n:,} tokens" for size, n in zip(sizes, CONTEXTS, strict=True))
    return f"{shown}, at width {WIDTH}; " + ("constant" if sizes[0] == sizes[1] else "it grows")


def learn(pattern: str) -> str:
    """Trains a model of two such layers as train.py does; its loss must be finite and go down."""
    from seqarch.config import Config, DataConfig, ModelConfig, OptimConfig
    from seqarch.errors import Diverged
    from seqarch.laws import LawBroken
    from seqarch.training.logging import read_rows
    from seqarch.training.loop import train

    model = ModelConfig(pattern, layers=2, dim=WIDTH, mlp=0)
    data, optim = DataConfig(DATA.value), OptimConfig(warmup=STEPS.value // 4)
    with tempfile.TemporaryDirectory() as run:
        try:
            train(Config(STEPS.value, 8, 64, model=model, optim=optim, data=data), run, progress=lambda line: None)
        except Diverged as error:
            raise LawBroken("losses or gradients that are not finite, step after step") from error
        losses = [math.inf if row["loss"] is None else row["loss"] for row in read_rows(run)]
    first, last = (sum(part) / len(part) for part in (losses[:5], losses[-5:]))
    found = f"{first:.2f} nats in the first 5 of {len(losses)} steps, {last:.2f} in the last"
    if not last < 0.95 * first:
        raise LawBroken(found)
    return found


if __name__ == "__main__":
    cli.run(main, positional=("PACKAGE.MODULE:CLASS",))
