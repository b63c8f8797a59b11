"""The bytes of a program that a compiler plans on each device.

libtpu plans memory in seconds and then generates code for up to minutes. A program that it refuses
as too large costs only the seconds, and the refusal says what was planned. The plan for an absent
TPU is therefore made with 1 MiB of memory. XLA's GPU compiler spends half of its time in NVIDIA's
assembler, one process for each kernel. The plan for an absent GPU is therefore made with an
assembler that does nothing, so that none of NVIDIA's programs need to be installed.
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
# XLA's GPU compiler says this of a matrix product that it cannot compile.
UNTILED = "Couldn't find output tile sizes"
# libtpu says this where a program fits, and its code does not.
CODE = "Ran out of memory in memory space hbm"
CUBLAS = {"xla_gpu_enable_triton_gemm": False}  # leaves matrix products to NVIDIA's library
# XLA looks for NVIDIA's programs here first.
CUDA_STUB = Path(__file__).with_name("cuda_stub")
UNITS = dict(K=2**10, M=2**20, G=2**30, T=2**40)  # bytes
REFUSAL = re.compile(
    r"RESOURCE_EXHAUSTED.*?\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)", re.S
)


class CompiledBytes(NamedTuple):
    """Bytes on one device while a program runs, as the compiler plans them.

    Attributes:
      arguments: bytes of arguments.
      outputs: bytes of outputs; None where the compiler refuses the program.
      aliased: bytes of donated arguments that outputs are written to; None likewise.
      temporaries: bytes of temporaries.
      total: bytes of the whole program, by `definition`.
      definition: depends on the backend; totals of different definitions do not compare.
    """

    arguments: int
    outputs: int | None
    aliased: int | None
    temporaries: int
    total: int
    definition: str


class Refusal(NamedTuple):
    """What libtpu says of a program that is too large, in three or four digits.

    Attributes:
      needed: bytes of the program, including its arguments.
      available: bytes that the device has for programs.
    """

    needed: int
    available: int


def compiled_bytes(compiled: Compiled) -> CompiledBytes:
    """Returns the compiler's plan of a compiled program."""
    stats = compiled.memory_analysis()
    parts = (
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
    )
    device = next(iter(jax.tree.leaves(compiled.input_shardings)[0].device_set))
    defined = definition(device.platform)
    if defined == PEAK:
        return CompiledBytes(*parts, stats.peak_memory_in_bytes, defined)
    arguments, outputs, aliased, temporaries = parts
    return CompiledBytes(*parts, arguments + outputs + temporaries - aliased, defined)


def definition(platform: str) -> str:
    """Returns what the total of a plan counts on a platform.

    On CPUs XLA's own peak leaves temporaries out. On TPUs temporaries are those in HBM, and can be
    0 for real work.
    """
    return ON_CPU if platform == "cpu" else PEAK


def refused_bytes(error: Exception, arguments: int) -> CompiledBytes:
    """Returns the plan of a program that libtpu refused as too large.

    Args:
      error: what the compiler raised; it is raised again if it is no such refusal.
      arguments: bytes of the program's arguments.
    """
    if not (refusal := parse_refusal(str(error))):
        raise error
    temporaries = max(0, refusal.needed - arguments)
    return CompiledBytes(arguments, None, None, temporaries, refusal.needed, REFUSED)


def parse_refusal(error: str) -> Refusal | None:
    """Returns the refusal that a message of libtpu's holds; None where it holds none.

    What libtpu calls HLO temporaries there are all bytes, including the arguments.
    """
    match = REFUSAL.search(error)
    if match is None:
        return None
    sizes = match.group(1, 2), match.group(3, 4)
    return Refusal(*(int(float(size) * UNITS[unit]) for size, unit in sizes))


def codeless(platform: str, memory: int) -> dict[str, Any]:
    """Returns options with which the compiler of an absent device plans without making code.

    libtpu refuses what needs more than 1 MiB, and recomputes what would not fit 95 % of the memory;
    it takes that percentage of the 1 MiB.

    Args:
      platform: "tpu" or "gpu".
      memory: bytes of the device.
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
    """Returns the directory of this process's kernels, many of which recur at another length."""
    return tempfile.TemporaryDirectory()


@functools.cache
def offered(tpu: jax.Device) -> int:
    """Returns the bytes that libtpu gives to programs, from its refusal of 4 TiB.

    They are somewhat fewer than those of the data sheet.
    """
    x = jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32, sharding=SingleDeviceSharding(tpu))
    traced = jax.jit(jnp.negative, donate_argnums=0).trace(x)
    try:
        traced.lower(lowering_platforms=("tpu",)).compile()
    except jax.errors.JaxRuntimeError as error:
        if refusal := parse_refusal(str(error)):
            return refusal.available
        raise
    raise RuntimeError("a compiler took 4 TiB for less than a TPU's memory")
