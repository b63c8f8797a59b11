"""Settings of every test process: the CPU, no silent broadcasting of ranks, compilations kept
between runs.
"""

import os
from importlib import metadata
from pathlib import Path

# Read by JAX when it is first imported, and inherited by the programs that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Compiling is most of what tests do: leave LLVM's optimisations out. They change speed, not what is
# computed.
quick = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if metadata.version("jaxlib").startswith(
    "0.10."
):  # halves the rest; later versions end a process that has this flag
    quick += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", quick)
# What scripts/tune.py found on this machine is no business of the tests.
os.environ["SEQARCH_FORMS"] = str(Path(__file__).parents[1] / ".pytest_cache" / "no-forms.json")
