"""Seconds that a program takes on an absent TPU, as its compiler estimates them.

    estimate(config, "train", batch=8, length=2048, target="tpu-v5e").total

libtpu says of most instructions of an optimised program how many cycles they take. The schedule is
replayed with these (seqarch.costs.schedule): loops count once per trip, copies and collectives run
beside the instructions. It is an estimate, not a measurement: it says nothing of hosts, of the
input pipeline and of dispatch. A program of which a part cannot be counted has no estimate, rather
than a low one. Kernels are counted by their final schedules, which libtpu writes only in a process
that was started for it, as the workers of seqarch.costs.cache are. GPU compilers tell no times.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
from jax.stages import Compiled

from seqarch.config import Config
from seqarch.costs.bundles import clear_schedules, dump_directory, find_kernel
from seqarch.costs.compiler import parse_refusal
from seqarch.costs.devices import Placement, place
from seqarch.costs.hlo import parse
from seqarch.costs.links import links_of
from seqarch.costs.programs import DECODED, phase_program
from seqarch.costs.schedule import Rates, Seconds, replay
from seqarch.costs.shares import seconds_by_part
from seqarch.errors import NoResult
from seqarch.training.sharding import make_mesh

ESTIMATED = "estimated by the compiler"  # the label of every such figure
OVERSIZED = "the program does not fit the device"


def estimate(config: Config, phase: str, batch: int, length: int, target: str) -> Seconds:
    """Compiles the program of a phase for a TPU, whole, and returns its estimated seconds.

    They are those of one call, or of decoding one token of each row.

    The arguments are those of a `ProgramSpec`.

    Raises:
      UserError: for an unknown phase or target, and a compiler that is not there.
      NoResult: for a target that is no TPU, a program that does not fit, and one with an
        instruction whose time nothing tells, which the message names.
    """
    placement = place(target)
    if not has_estimates(placement):
        raise NoResult(f"no compiler estimates the time of programs for {target}; TPUs' does")
    mesh = make_mesh(config.mesh, placement.devices())
    program = phase_program(config, phase, batch, length, mesh)
    seconds = compiled_seconds(program.compile, placement)
    return seconds.times(1 / DECODED) if phase == "decode" else seconds


def compiled_seconds(compile: Callable[[], Compiled], placement: Placement) -> Seconds:
    """Compiles a program for a TPU, and returns its estimated seconds.

    Raises:
      NoResult: for a program that does not fit, and one with an instruction whose time nothing
        tells, which the message names.
    """
    if directory := dump_directory():
        clear_schedules(directory)
    try:
        text = compile().as_text()
    except jax.errors.JaxRuntimeError as error:
        if parse_refusal(str(error)):
            raise NoResult(OVERSIZED) from error
        raise
    return program_seconds(text, placement, directory)


def has_estimates(placement: Placement) -> bool:
    """Returns whether the compiler of a target tells times."""
    return placement.target.clock is not None


def program_seconds(text: str, placement: Placement, directory: Path | None = None) -> Seconds:
    """Returns the seconds of an optimised program on a TPU.

    Args:
      text: that of the compiled program (`Compiled.as_text`).
      placement: the TPU that it was compiled for.
      directory: where libtpu wrote the schedules of its kernels (seqarch.costs.bundles); None:
        nothing tells the time of kernels.

    Raises:
      Uncounted: where nothing tells the time of an instruction.
    """
    return replay(parse(text), _rates(placement), functools.partial(find_kernel, directory))


def program_parts(
    text: str, placement: Placement, directory: Path | None, loops: tuple[int, int]
) -> Mapping[str, float]:
    """Returns the seconds of the parts of a program (`seqarch.costs.shares`).

    Args:
      text: as for `program_seconds`, like what follows, and what is raised.
      placement: the TPU.
      directory: with the schedules of its kernels.
      loops: trips of the loops over micro-batches and over layers.
    """
    kernel = functools.partial(find_kernel, directory)
    return seconds_by_part(parse(text), _rates(placement), kernel, loops)


def _rates(placement: Placement) -> Rates:
    sheet = placement.target
    return Rates(sheet.clock, sheet.bandwidth / sheet.devices_per_chip, links_of(placement))
