"""What a program takes when it really runs, to be held beside its compiler's plan: run `peak` in a
process of its own.

Accelerators' allocators tell their peak, of all that the process did: also of what its compiler
tried out. A CPU has none to
ask: there it is the growth of the process's resident memory from before the arguments exist to its
highest point while the program runs, compilation being over.
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


class Actual(NamedTuple):
    """planned: the compiler's total; peak: bytes that were taken. On accelerators of the first
    device, else of the process.
    """

    planned: int
    peak: int


def peak(config: Config, phase: str, batch: int, length: int, target: str) -> Actual:
    """Runs the phase's program once, from arguments of zeros. The arguments are those of
    `memory.measure`.

    Raises UserError for a target that is not here, NoResult where the system does not tell a
    process's memory.
    """
    placement = place(target)
    if not placement.present:
        raise UserError(f"{target} is not here to run a program; give local")
    mesh = make_mesh(config.mesh, placement.devices())
    program = phase_program(config, phase, batch, length, mesh)
    compiled = program.compile()
    where = jax.tree.map(lambda leaf: leaf.sharding, program.args)
    zeros = jax.jit(
        lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), program.args),
        out_shardings=where,
    )
    zeros = zeros.lower().compile()
    device, start = mesh.devices.flat[0], 0
    if device.memory_stats() is None:
        start = reset_peak()
    jax.block_until_ready(compiled(*zeros()))
    stats, planned = device.memory_stats(), compiled_bytes(compiled).total
    if stats:
        return Actual(planned, stats["peak_bytes_in_use"])
    # The process is all of its CPU devices.
    return Actual(planned * mesh.size, resident_peak() - start)
