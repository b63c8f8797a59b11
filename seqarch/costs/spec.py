"""Specs of programs, their outcomes, and the digest under which an outcome is kept."""

import dataclasses
import functools
import hashlib
import inspect
import json
import os
import platform
from pathlib import Path
from typing import NamedTuple

from seqarch import tuning
from seqarch.config import Config, to_dict, without_forms
from seqarch.costs.devices import place
from seqarch.costs.memory import Measurement
from seqarch.costs.programs import abstract_states, decoding_room, serving_model
from seqarch.mixers import resolve_mixer
from seqarch.patterns import parse_pattern
from seqarch.provenance import version

PACKAGES = ("jax", "jaxlib", "flax", "optax", "libtpu", "jax-cuda13-plugin", "nvidia-cudnn-cu13")
SOURCES = (
    *(f"{name}.py" for name in ("block_stack", "cross_attention", "decoding", "devices")),
    *(f"{name}.py" for name in ("encoder_decoder", "flops", "layers", "model", "patterns")),
    *(f"{name}.py" for name in ("prompts", "sampling", "source_summary", "token_rows", "tuning")),
    "tuned.json",
    *("config/*.py", "ops/*.py", "ops/kernels/*.py"),
    *("mixers/*.py", "tasks/*.py", "training/*.py"),
    *(f"costs/{name}.py" for name in ("clock", "compiler", "devices", "memory", "peak")),
    *("costs/program.py", "costs/programs.py"),
)
# Sources of an estimated time (seqarch.costs.time), beside those.
TIME_SOURCES = tuple(
    f"costs/{name}.py"
    for name in ("bundles", "hlo", "links", "schedule", "shares", "time", "trips", "uncounted")
)

# Prefixes of the environment variables that may change a program, and those that never do.
COMPILERS = ("JAX_", "LIBTPU_", "XLA_")
HARMLESS = (
    "JAX_PLATFORMS",
    "JAX_COMPILATION_CACHE_DIR",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
)


class ProgramSpec(NamedTuple):
    """What is measured: the arguments of `seqarch.costs.memory.measure`.

    Attributes:
      config: the run's config.
      phase: "train", "prefill" or "decode".
      batch: rows.
      length: tokens of context.
      target: the devices, such as "tpu-v5e:2x2".
    """

    config: Config
    phase: str
    batch: int
    length: int
    target: str


class Failed(NamedTuple):
    """The outcome of a program that could not be measured.

    Attributes:
      reason: one line.
    """

    reason: str

    @property
    def fits(self) -> bool:
        """Whether it is known to fit: it is not."""
        return False


Outcome = Measurement | Failed


def key_of(
    spec: ProgramSpec, platforms: str | None = None, sources: tuple[str, ...] = SOURCES
) -> str:
    """Returns a digest of what decides the program of a spec and its plan.

    These are the config, shapes, versions, sources, tuned forms, the compilers' environment and the
    target. Where a state does not grow with the context, the digest is the same at all contexts;
    that of a decoding loop is the same for all forms.

    Args:
      spec: the spec.
      platforms: JAX_PLATFORMS of the process that measures a present target.
      sources: patterns of the modules that decide what is measured.
    """
    config, program = spec.config, spec.length
    if spec.phase == "decode":
        config = dataclasses.replace(config, model=without_forms(config.model))
    given = to_dict(config)
    if spec.phase != "train":
        room = decoding_room(config, spec.length)
        states = abstract_states(serving_model(config.model), spec.batch, **room)
        read = room.get("source", min(config.length, spec.length))
        program = [read if spec.phase == "prefill" else 1, str(states)]
    about = [spec.phase, spec.batch, program, spec.target]
    about += [given["model"], given["optim"], given["mesh"], _versions(sources)]
    for pattern in config.model.patterns.values():
        mixers = (resolve_mixer(layer.mixer) for layer in parse_pattern(pattern))
        about += [_digest(inspect.getfile(mixer)) for mixer in mixers]
    about += [tuning.path().read_text() if tuning.path().exists() else None]
    about += sorted(pair for pair in os.environ.items() if _changes_programs(pair[0]))
    if place(spec.target).present:
        about += [platform.node(), len(os.sched_getaffinity(0)), platforms]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _changes_programs(variable: str) -> bool:
    return variable.startswith(COMPILERS) and variable not in HARMLESS


@functools.cache
def _versions(sources: tuple[str, ...]) -> list[str]:
    """Returns digests of the sources that decide a plan, and the versions of packages."""
    root = Path(__file__).parents[1]
    paths = (path for pattern in sources for path in sorted(root.glob(pattern)))
    return [*map(_digest, paths), *versions()]


def versions() -> list[str]:
    """Returns names and versions of the packages that decide a plan."""
    return [f"{name} {version(name) or 'none'}" for name in PACKAGES]


@functools.cache
def _digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
