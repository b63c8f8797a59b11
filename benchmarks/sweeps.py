"""The cases of a sweep: its runs one after the other in each process, and several at once.

Each case is scripts/sweep.py itself, with compiled programs in the cache: two processes share the
runs of one GRU on parity, which differ in their seeds. From two numbers of steps follow the time
of a step and the time beside steps: starting processes, loading programs, saving, scoring.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.cases import Case, Ready, Sizes
from seqarch.errors import UserError
from seqarch.provenance import ROOT

GROUP = "sweep"
PROBE = "parity,gru"
PROCESSES = 2
ALONE, TOGETHER = "one at a time in a process", "all at once in a process"


def sweep_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """Yields for each number of steps the sweep in both ways; the unit of work is a run."""
    for steps in sizes.sweep_steps:
        yield [
            Case(
                GROUP,
                form,
                shape_of(sizes.sweep_runs, steps),
                "sweep",
                partial(_start, sizes.sweep_runs, steps, together),
                sizes.sweep_runs,
            )
            for form, together in ((ALONE, 1), (TOGETHER, sizes.sweep_runs // PROCESSES))
        ]


def shape_of(runs: int, steps: int) -> str:
    """Returns the shape of a case in words."""
    return f"{runs} runs of {steps} steps"


def _start(runs: int, steps: int, together: int) -> Ready:
    """Runs the sweep once, so that its compiled programs are in a cache of this case."""
    cache = tempfile.TemporaryDirectory()

    def run(_: Any) -> None:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache.name}
        with tempfile.TemporaryDirectory() as workdir:
            command = [
                *(sys.executable, "scripts/sweep.py", f"--config=configs/probes.py:{PROBE}"),
                *(f"--grid=seed.model=0..{runs - 1}", f"--config.steps={steps}"),
                *("--only=accuracy", f"--workers={PROCESSES}", f"--ensemble={together}"),
                f"--workdir={workdir}/sweep",
            ]
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                raise UserError(f"scripts/sweep.py failed: {done.stderr.strip()[-200:]}")

    run(None)
    return Ready(run)
