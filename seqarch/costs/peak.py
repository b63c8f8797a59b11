"""The peak memory of a program that runs, to compare with its compiler's plan.

Accelerators' allocators tell the peak of all that the process did, including what its compiler
tried out. On a CPU the peak is the growth of the process's resident memory, from before the
arguments exist to its highest point while the program runs; compilation is over by then. `peak`
therefore needs a process of its own.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqarch.config import Config
from seqarch.costs.compiler import compiled_bytes
from seqarch.costs.devices import place
from seqarch.costs.programs import phase_program
from seqarch.errors import UserError
from seqarch.runtime.resident import reset_peak, resident_peak
from seqarch.training.sharding import make_mesh
from seqarch.types import PyTree


class Actual(NamedTuple):
    """Bytes of a program that ran: of the first device, or on a CPU of the process.

    Attributes:
      planned: the total of the compiler's plan.
      peak: the peak while it ran.
    """

    planned: int
    peak: int


def peak(config: Config, phase: str, batch: int, length: int, target: str) -> Actual:
    """Runs the program of a phase once, on arrays of zeros, and returns its peak.

    The arguments are those of a `ProgramSpec` with a present target.

    Raises:
      UserError: for an absent target.
      NoResult: where the system does not tell a process's memory.
    """
    placement = place(target)
    if not placement.present:
        raise UserError(f"{target} is not here to run a program; give local")
    mesh = make_mesh(config.mesh, placement.devices())
    program = phase_program(config, phase, batch, length, mesh)
    compiled = program.compile()

    def make_zeros() -> PyTree:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), program.args)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, program.args)
    zeros = jax.jit(make_zeros, out_shardings=shardings).lower().compile()
    device, start = mesh.devices.flat[0], 0
    if device.memory_stats() is None:
        start = reset_peak()
    jax.block_until_ready(compiled(*zeros()))
    stats, planned = device.memory_stats(), compiled_bytes(compiled).total
    if stats:
        return Actual(planned, stats["peak_bytes_in_use"])
    # The process holds the memory of all CPU devices.
    return Actual(planned * mesh.size, resident_peak() - start)
