"""A run, measured: evaluators are generators of (name, value); their values go to RUN/eval.json and to TensorBoard."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from seqarch.data.corpus import locate
from seqarch.data.tokens import open_split
from seqarch.errors import unknown
from seqarch.files import write_json
from seqarch.flops import count_flops, forward_flops
from seqarch.measure import context, memory, quality, speed
from seqarch.measure.programs import abstract, train_program
from seqarch.measure.subject import Subject
from seqarch.training.checkpoint import load_model
from seqarch.training.logging import add_scalars
from seqarch.training.rundir import provenance


def flops(subject: Subject) -> Iterator[tuple[str, Any]]:
    """flops/*, for each token of a sequence of the run's length: model FLOPs, and those of the train step as it runs."""
    config = subject.config
    forward = forward_flops(abstract(subject.model), config.length)
    program = train_program(config, subject.mesh)
    hardware = count_flops(program.fn, *program.args)
    yield "flops/forward_per_token", forward.total / config.length
    yield "flops/forward_matmul_per_token", forward.matmul / config.length
    yield "flops/train_per_token", 3 * forward.total / config.length
    yield "flops/train_matmul_per_token", 3 * forward.matmul / config.length
    yield "flops/train_hardware_per_token", hardware.total / (config.batch * config.length)
    yield "flops/uncounted_loops", hardware.uncounted_loops


EVALUATORS: dict[str, Callable[[Subject], Iterator[tuple[str, Any]]]] = {
    "quality": quality.evaluate,
    "context": context.evaluate,
    "flops": flops,
    "speed": speed.evaluate,
    "memory": memory.evaluate,  # after speed, some of whose programs it asks
}


def evaluate(
    workdir: str | os.PathLike,
    *,
    split: str = "validation",
    only: Sequence[str] = (),
    keep: Mapping[str, Any] = MappingProxyType({}),
    allow_modules: Iterable[str] = (),
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures the latest checkpoint of the run in `workdir` and returns what eval.json then holds.

    only: names in EVALUATORS; default: all
    keep: values of others, of the same step, split and revision, that eval.json is to hold beside these
    allow_modules: modules and packages of mixers that the run's config may have imported
    progress: takes lines that say what is being done; default: print
    Values are flat by name; run/* say of which step, by which revision, versions and device. eval.json is replaced, so
    but for `keep` it never mixes two evaluations. Raises UserError where `workdir` is no run and for an unknown split or evaluator.
    """
    say = progress or functools.partial(print, flush=True)
    for name in only:
        if name not in EVALUATORS:
            raise unknown("evaluator", name, EVALUATORS)
    config, model, step = load_model(workdir, allow_modules)
    text = open_split(locate(config.data.path, config.model.vocab), split)
    subject = Subject(config, model, text, say)
    values = {**keep, "run/step": step, **_provenance()}
    for name in only or EVALUATORS:
        say(f"measuring {name}")
        values |= dict(EVALUATORS[name](subject))
    if jax.process_index() == 0:
        _write(Path(workdir), values)
    return values


def _provenance() -> dict[str, Any]:
    made = provenance()
    device = "{count} x {kind} ({platform})".format(**made["devices"])
    return {"run/device": device} | {f"run/{name}": made[name] for name in ("revision", "dirty", "versions", "command")}


def _write(workdir: Path, values: dict[str, Any]) -> None:
    """eval.json at once or not at all, then the numbers in it to TensorBoard."""
    write_json(workdir / "eval.json", values)
    works = {f"quality/by_document/{name}": bits for name, bits in values.get("quality/by_document", {}).items()}
    numbers = {n: v for n, v in (values | works).items() if isinstance(v, (int, float)) and not n.startswith("run/")}
    add_scalars(workdir, {values["run/step"]: numbers})
