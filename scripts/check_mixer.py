"""Says of a mixer of your own what holds and what fails.

    python scripts/check_mixer.py my_package.module:MyMixer

Options stand in parentheses, as in a layer pattern: "my_package.module:MyMixer(heads=2)". The
clauses of the law have a line each: prefill, step and call agree in values and gradients, gradients
agree with finite differences and reach every parameter, bfloat16 does not drift, large inputs stay
finite, states can be reused. Then come the bytes of its state, and whether it learns a task that
needs a memory. The exit code is 1 where anything fails. It takes some minutes on two CPU cores.
"""

import sys

from absl import flags

import _root  # noqa: F401
from seqarch.runtime import cli

DIM = flags.DEFINE_integer("dim", 16, "Width that the law is checked at.", lower_bound=1)
TIME = flags.DEFINE_integer(
    "time", 21, "Tokens of its sequences: more than 8, and no multiple of 8.", lower_bound=4
)
STEPS = flags.DEFINE_integer("steps", 100, "Training steps.", lower_bound=10)


def main(pattern: str) -> None:
    from studies.check_mixer import check_mixer

    if not check_mixer(pattern, DIM.value, TIME.value, STEPS.value):
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, positional=("PACKAGE.MODULE:CLASS",))
