"""seqarch: choose between sequence architectures by measuring quality and memory.

run = seqarch.load_run("runs/mamba")        # run.config, run.model, run.metrics, run.results:
seqarch/runs.py
"""

import os
from typing import Any

__all__ = ["load_run"]

if os.environ.get("SEQARCH_CHECK_SHAPES") == "1":
    from seqarch import shapes

    shapes.install()


def __getattr__(name: str) -> Any:
    """`load_run`, imported when it is asked for: whoever imports a part of seqarch may yet set
    flags, and waits for no JAX.
    """
    if name == "load_run":
        from seqarch.runs import load_run

        return load_run
    raise AttributeError(f"module 'seqarch' has no attribute {name!r}")
