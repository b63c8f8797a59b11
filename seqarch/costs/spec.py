"""Cells of a memory table: what is asked of a measurement, what comes of it, and the digest under
which it is kept.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from seqarch import tuning
from seqarch.config import Config, to_dict, without_forms
from seqarch.costs.devices import place
from seqarch.costs.memory import Measurement
from seqarch.costs.programs import abstract_states, serving_model
from seqarch.mixers import resolve_mixer
from seqarch.patterns import parse_pattern

PACKAGES = ("jax", "jaxlib", "flax", "optax", "libtpu", "jax-cuda13-plugin")
SOURCES = (
    *(f"{name}.py" for name in ("tasks/base", "devices", "flops", "generate")),
    *(f"{name}.py" for name in ("layers", "model", "patterns", "tuning")),
    *("config/*.py", "ops/*.py", "mixers/*.py", "training/*.py"),
    *(f"costs/{name}.py" for name in ("compiler", "devices", "memory", "peak", "programs")),
)

COMPILERS = ("JAX_", "LIBTPU_", "XLA_")  # environment variables that begin so may change a program
APART = ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")


class ProgramSpec(NamedTuple):
    """The arguments of `seqarch.costs.memory.measure`."""

    config: Config
    phase: str
    batch: int
    length: int
    target: str


class Failed(NamedTuple):
    """A spec without a measurement; reason: one line."""

    reason: str


Outcome = Measurement | Failed


def key_of(spec: ProgramSpec, platforms: str | None = None) -> str:
    """A digest of what decides the spec's program and its plan: the config, shapes, versions,
    sources, tuned forms, the compilers' environment and the target.

    Where a state does not grow with the context, specs of all contexts are the same; so are
    decoding steps of all forms.
    """
    config, program = spec.config, spec.length
    if spec.phase == "decode":
        config = dataclasses.replace(config, model=without_forms(config.model))
    given = to_dict(config)
    if spec.phase != "train":
        states = abstract_states(serving_model(config.model), spec.batch, spec.length)
        program = [min(config.length, spec.length) if spec.phase == "prefill" else 1, str(states)]
    about = [
        spec.phase,
        spec.batch,
        program,
        spec.target,
        given["model"],
        given["optim"],
        given["mesh"],
        _versions(),
    ]
    about += [
        _digest(inspect.getfile(resolve_mixer(layer.mixer)))
        for layer in parse_pattern(config.model.mixer)
    ]
    about += [tuning.path().read_text() if tuning.path().exists() else None]
    about += sorted(
        pair
        for pair in os.environ.items()
        if pair[0].startswith(COMPILERS) and pair[0] not in APART
    )
    if place(spec.target).present:
        about += [platform.node(), len(os.sched_getaffinity(0)), platforms]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


@functools.cache
def _versions() -> list[str]:
    root = Path(__file__).parents[1]
    return [
        *(_digest(path) for pattern in SOURCES for path in sorted(root.glob(pattern))),
        *versions(),
    ]


def versions() -> list[str]:
    """Names and versions of what decides a plan beside seqarch's own source."""
    return [f"{name} {_version(name)}" for name in PACKAGES]


@functools.cache
def _digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
