"""Estimates how long forms take on an absent TPU, forward and backward, as its compiler says.

    python scripts/tune.py --target=tpu-v5e

Nothing is run. The forms of whole mixers decide what method="auto" means on such a device; the ops
of benchmarks.goals are those with a goal.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
from jax.sharding import SingleDeviceSharding

from benchmarks.cases import PASSES, passes_of
from benchmarks.goals import GOALS
from benchmarks.tune import sized_forms
from seqarch.config import Config
from seqarch.costs.devices import Placement, place
from seqarch.costs.spec import Failed
from seqarch.costs.speed import spent
from seqarch.costs.time import compiled_seconds, has_estimates
from seqarch.costs.worker import Worker
from seqarch.errors import NoResult, UserError
from seqarch.patterns import Layer, parse_pattern
from seqarch.records import Record
from seqarch.runtime.progress import Say

KIND = "forms"  # the evaluator of these records, and the kind of their file
TIMEOUT_S = 1800.0  # after which a form is given up
Programs = tuple[Callable, tuple]  # a function and the shapes of its arguments
# Forms by what they are of: where the records of each are, and what makes its program in a worker.
Parts = Mapping[str, Sequence[tuple[dict[str, Any], Callable[[], Programs]]]]


def estimate(
    config: Config | None,
    target: str,
    workers: int,
    ops: Sequence[str],
    say: Say,
    timeout: float = TIMEOUT_S,
) -> Iterator[tuple[str, list[Record]]]:
    """Yields ops of GOALS and the mixers of a config, with the estimates of their forms.

    They come in the order in which they are finished.

    Args:
      config: says the mixers, and the batch, length, width and dtype of their input; None: no
        mixers are wanted.
      target: one TPU.
      workers: processes that compile at once.
      ops: the names of the ops.
      say: takes lines of progress.
      timeout: seconds that a form may take; its records then say that it took longer.

    Raises:
      UserError: for a target that has no estimates, or whose compiler is not installed.
    """
    platform = device_of(target).platform
    parts = {name: list(_op_forms(name, platform)) for name in ops}
    for layer in parse_pattern(config.model.mixer) if config else ():
        parts[layer.mixer] = list(_mixer_forms(layer, config, platform))
    yield from estimate_parts(parts, target, workers, say, timeout)


def estimate_parts(
    parts: Parts, target: str, workers: int, say: Say, timeout: float
) -> Iterator[tuple[str, list[Record]]]:
    """Yields each of some parts with the estimates of its forms, as `estimate` does.

    Args:
      parts: with `method` among what the records of a form are at.
      target: one TPU.
      workers: processes that compile at once.
      say: takes lines of progress.
      timeout: seconds that a form may take.
    """

    def run(part: tuple[str, list]) -> tuple[str, list[Record]]:
        name, forms = part
        worker, seen, found = Worker(None), set(), []
        try:
            for at, make in forms:
                say(f"{name}: estimating {', '.join(map(str, at.values()))} on {target}")
                call = functools.partial(_passes, make, at, target, frozenset(seen))
                found += _answered(worker.ask(target, call, timeout), at, seen)
        finally:
            worker.end()
        return name, found

    with futures.ThreadPoolExecutor(workers) as pool:
        started = [pool.submit(run, part) for part in parts.items()]
        yield from (each.result() for each in futures.as_completed(started))


def device_of(target: str) -> jax.Device:
    """Returns the description of the one device of a target.

    Raises:
      UserError: where it has several, or its compiler tells no times or is not installed.
    """
    placement = place(target)
    if not has_estimates(placement) or placement.count > 1:
        raise UserError(f"--target={target} is no single TPU; give one, such as tpu-v5e")
    return placement.devices()[0]


def _mixer_forms(layer: Layer, config: Config, platform: str) -> Iterator[tuple[dict, Callable]]:
    for options, make in sized_forms(layer, config, platform):
        yield options, functools.partial(_mixer_program, make)


def _mixer_program(make: Callable) -> Programs:
    return lambda mixer, x: mixer(x), jax.eval_shape(make)


def _op_forms(name: str, platform: str) -> Iterator[tuple[dict, Callable]]:
    for form in GOALS[name].forms.on(platform):
        yield {"method": form}, functools.partial(_op_program, name, form)


def _op_program(name: str, form: str) -> Programs:
    goal = GOALS[name]
    return functools.partial(goal.call, form), goal.args


class Found(NamedTuple):
    """The estimates of a form.

    Attributes:
      digest: of its name and its program.
      records: its passes; none where it was estimated before, in a size that changes nothing.
    """

    digest: str
    records: list[Record]


def _answered(answer: Found | Failed | UserError, at: dict, seen: set[str]) -> list[Record]:
    if isinstance(answer, UserError):
        raise answer
    if isinstance(answer, Failed):
        where = [at | {"pass": name} for name in PASSES]
        return [
            Record(KIND, "estimated_s", at=each, status="failed", note=answer.reason)
            for each in where
        ]
    seen.add(answer.digest)
    return answer.records


def _passes(
    make: Callable[[], Programs], at: dict[str, Any], target: str, seen: frozenset[str]
) -> Found:
    """Estimates the passes of a form, in a worker."""
    placement, (fn, args) = place(target), make()
    chip = SingleDeviceSharding(placement.devices()[0])
    placed = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=chip)
    args = jax.tree.map(placed, args)
    outputs = jax.tree.map(placed, jax.eval_shape(fn, *args))
    given = {"forward": args, "train": (args, outputs)}
    digest, records = "", []
    for name, program in passes_of(fn).items():
        traced = jax.jit(program).trace(*given[name])
        lowered = traced.lower(lowering_platforms=(placement.target.platform,))
        if name == "forward":
            text = f"{at['method']} {lowered.as_text()}"
            digest = hashlib.sha256(text.encode()).hexdigest()
            if digest in seen:
                break
        records.append(_estimate(lowered, at | {"pass": name}, placement))
    return Found(digest, records)


def _estimate(lowered: jax.stages.Lowered, at: dict[str, Any], placement: Placement) -> Record:
    try:
        seconds = compiled_seconds(lowered.compile, placement)
    except NoResult as error:
        return Record(KIND, "estimated_s", at=at, status="failed", note=str(error))
    return Record(KIND, "estimated_s", seconds.total, at, note=spent(seconds))
