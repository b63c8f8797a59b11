"""What a compiler plans: bytes on each device while a program runs, and what libtpu says of a
program that it refuses.

libtpu plans memory in seconds and then generates code for up to minutes. A program that it refuses
as too large costs only the seconds, and the refusal says what was planned: so the plan of a TPU
that is not here is asked of one with 1 MiB. XLA's GPU compiler gives half of its time to NVIDIA's
assembler, one process for each kernel: so the plan of a GPU that is not here is made with an
assembler that does nothing, and asks for nothing of NVIDIA's to be installed.
"""

import functools
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from jax.stages import Compiled

PEAK = "peak_memory_in_bytes"
ON_CPU = "arguments + outputs + temporaries - aliased"
REFUSED = "what the compiler plans, said as it refuses"
# said of a matrix product by XLA's GPU compiler, which then gives up
UNTILED = "Couldn't find output tile sizes"
CUBLAS = {"xla_gpu_enable_triton_gemm": False}  # leaves matrix products to NVIDIA's library
CUDA_STUB = Path(__file__).with_name(
    "cuda_stub"
)  # where XLA looks for NVIDIA's programs before it looks elsewhere
UNITS = dict(K=2**10, M=2**20, G=2**30, T=2**40)


class CompiledBytes(NamedTuple):
    """Bytes on one device while a program runs, as the compiler planned them.

    outputs, aliased: None of a refused program
    total: by `definition`, which depends on the backend; totals of different definitions do not
      compare
    """

    arguments: int
    outputs: int | None
    aliased: int | None
    temporaries: int
    total: int
    definition: str


class Refusal(NamedTuple):
    """Bytes that a program needs, its arguments among them, and bytes that there are; both of three
    digits or four.
    """

    needed: int
    available: int


def compiled_bytes(compiled: Compiled) -> CompiledBytes:
    """The compiler's plan. `aliased` are the bytes of donated arguments that outputs are written
    to.
    """
    stats = compiled.memory_analysis()
    parts = (
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
    )
    defined = definition(
        next(iter(jax.tree.leaves(compiled.input_shardings)[0].device_set)).platform
    )
    if defined == PEAK:
        return CompiledBytes(*parts, stats.peak_memory_in_bytes, defined)
    arguments, outputs, aliased, temporaries = parts
    return CompiledBytes(*parts, arguments + outputs + temporaries - aliased, defined)


def definition(platform: str) -> str:
    """On CPU XLA's own peak leaves temporaries out; on TPU temporaries are those in HBM and can be
    0 for real work.
    """
    return ON_CPU if platform == "cpu" else PEAK


def refused_bytes(error: Exception, arguments: int) -> CompiledBytes:
    """What libtpu said when it refused a program with so many bytes of arguments; raises `error` if
    it is another one.
    """
    if not (refusal := parse_refusal(str(error))):
        raise error
    return CompiledBytes(
        arguments, None, None, max(0, refusal.needed - arguments), refusal.needed, REFUSED
    )


def parse_refusal(error: str) -> Refusal | None:
    """What libtpu calls HLO temporaries there are all bytes, the arguments' included."""
    said = re.search(
        r"RESOURCE_EXHAUSTED.*?\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)",
        error,
        re.S,
    )
    return (
        Refusal(
            *(int(float(size) * UNITS[unit]) for size, unit in (said.group(1, 2), said.group(3, 4)))
        )
        if said
        else None
    )


def codeless(platform: str, memory: int) -> dict[str, Any]:
    """Options with which the compiler of a device that is not here plans for `memory` bytes and
    makes no machine code.

    libtpu refuses what needs more than 1 MiB, and recomputes what would not fit 95 % of the memory:
    the percentage is of the 1 MiB.
    """
    if platform == "gpu":
        file = f"{_kernels().name}/kernels"
        kernels = {
            "xla_gpu_kernel_cache_file": file,
            "xla_gpu_enable_llvm_module_compilation_parallelism": True,
        }
        return {"xla_gpu_cuda_data_dir": str(CUDA_STUB)} | kernels
    return {
        "xla_tpu_max_hbm_size_mib": 1,
        "xla_jf_rematerialization_percent_shared_memory_limit": 95 * memory // 2**20,
    }


@functools.cache
def _kernels() -> tempfile.TemporaryDirectory:
    """Of the kernels that this process has had made: many recur in the same program of another
    length.
    """
    return tempfile.TemporaryDirectory()


@functools.cache
def offered(tpu: jax.Device) -> int:
    """Bytes that libtpu gives to programs, somewhat less than the data sheet's: from its refusal of
    4 TiB.
    """
    x = jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32, sharding=SingleDeviceSharding(tpu))
    try:
        jax.jit(jnp.negative, donate_argnums=0).trace(x).lower(
            lowering_platforms=("tpu",)
        ).compile()
    except jax.errors.JaxRuntimeError as error:
        if refusal := parse_refusal(str(error)):
            return refusal.available
        raise
    raise RuntimeError("a compiler took 4 TiB for less than a TPU's memory")
