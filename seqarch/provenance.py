"""Where a number comes from: versions, revision, command line, host and devices."""

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
    """What produced a number: versions, revision, command line, devices; JSON-ready."""
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
    """This program's, without the path of the repository."""
    return ["python", *(argument.replace(f"{ROOT}/", "") for argument in sys.argv)]


def revision() -> dict[str, Any]:
    """{"revision": commit, "dirty": whether the tree differs from it} of seqarch's source; None
    where there is no git.
    """

    def git(*args: str) -> str | None:
        try:
            return subprocess.run(
                ["git", "-C", ROOT, *args], capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    if not (ROOT / ".git").exists():  # installed from an archive, perhaps inside another repository
        return dict(revision=None, dirty=None)
    changes = git("status", "--porcelain", "--", *SOURCE)
    return dict(revision=git("rev-parse", "HEAD"), dirty=None if changes is None else bool(changes))


def processor() -> str:
    """The CPU's name, for which Python gives the instruction set on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def cpus() -> int:
    """Those that this process may run on, after which XLA sizes its thread pool and splits sums."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
