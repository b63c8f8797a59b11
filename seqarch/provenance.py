"""The provenance of a number: versions, revision, command line, host and devices."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ("seqarch", "train.py", "eval.py", "scripts", "studies", "benchmarks")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def provenance() -> dict[str, Any]:
    """Returns the versions, revision, command line, host and devices of this process, for JSON."""
    devices = jax.devices()
    return dict(
        versions={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        **revision(),
        command=command(),
        host=dict(system=platform.platform(), cpu=processor(), cpus=cpus()),
        devices=dict(platform=devices[0].platform, kind=devices[0].device_kind, count=len(devices)),
        processes=jax.process_count(),
    )


def command() -> list[str]:
    """Returns this program's command line, with paths relative to the repository."""
    return ["python", *(argument.replace(f"{ROOT}/", "") for argument in sys.argv)]


def revision() -> dict[str, Any]:
    """Returns {"revision": commit, "dirty": whether the source differs from it}.

    Both are None where there is no git repository.
    """

    def git(*args: str) -> str | None:
        command = ["git", "-C", ROOT, *args]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            return done.stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    if not (ROOT / ".git").exists():  # installed from an archive, perhaps inside another repository
        return dict(revision=None, dirty=None)
    changes = git("status", "--porcelain", "--", *SOURCE)
    return dict(revision=git("rev-parse", "HEAD"), dirty=None if changes is None else bool(changes))


def processor() -> str:
    """Returns the CPU's name; `platform.processor` has only the instruction set on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def cpus() -> int:
    """Returns the number of CPUs that this process may run on.

    XLA sizes its thread pool by it and splits sums accordingly, so results depend on it.
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version(package: str) -> str | None:
    """Returns the version of an installed package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
