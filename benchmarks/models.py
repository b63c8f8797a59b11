"""Estimates the train steps of whole models on an absent TPU, with kernels and without.

    python scripts/tune.py --target=tpu-v5e --models=all

Nothing is run. A model tells its tokens/s and MFU, what its time is spent on, and its memory.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_collections
from jax.stages import Compiled

from benchmarks.estimates import TIMEOUT_S, device_of
from configs import compare
from seqarch.config import Config, to_dict
from seqarch.config.forms import with_forms
from seqarch.costs.bundles import dump_directory
from seqarch.costs.compiler import compiled_bytes
from seqarch.costs.devices import place
from seqarch.costs.programs import train_program
from seqarch.costs.results import program_provenance
from seqarch.costs.spec import Failed
from seqarch.costs.speed import spent
from seqarch.costs.time import ESTIMATED, OVERSIZED, compiled_seconds, program_parts
from seqarch.costs.worker import Worker
from seqarch.errors import UserError
from seqarch.model import abstract_model, count_parameters
from seqarch.ops.forms import ACCELERATOR
from seqarch.records import Record, Results, Source
from seqarch.runtime.progress import Say
from seqarch.training.meter import step_flops
from seqarch.training.sharding import make_mesh

KIND = "models"  # the evaluator of these records, and the kind of their file
PLAIN, KERNELS = "plain", "kernels"
FORMS = (PLAIN, KERNELS)  # those of every accelerator, and those that the target prefers
NAMED = {PLAIN: "plain forms", KERNELS: "kernels"}
SHARE = "share"  # of the time, spent on a part of the program


def core_config() -> ml_collections.ConfigDict:
    """Returns a config of the core members with 125M parameters, in sizes that suit a TPU.

    MLPs are multiples of 128 wide, and heads of attention have 128 channels: both fill the lanes.
    Rows go in micro-batches: a step is estimated to be faster with few rows at once.
    """
    config = compare.get_config("full")
    config.reference = "attention(heads=6)"
    config.members = (
        "gru",
        "attention = attention(heads=6)",
        "linear_attention = linear_attention(heads=12,decay=data)",
        "mamba = mamba; layers=12; mlp=2816",
        "hybrid = mamba,mamba,attention(heads=6); layers=12; mlp=3072",
    )
    config.batch, config.length, config.optim.accumulate = 64, 2048, 8
    config.model.layers, config.model.mlp, config.model.remat = 12, 3456, False
    return config


def estimate(
    members: Mapping[str, Config],
    target: str,
    forms: Iterable[str],
    say: Say,
    timeout: float = TIMEOUT_S,
) -> Iterator[Results]:
    """Yields the estimates of each member in each of some forms.

    The batch is that of the config, or the largest of its halves that fits.

    Args:
      members: configs by name; their mixers name no forms.
      target: one TPU.
      forms: names in FORMS.
      say: takes lines of progress.
      timeout: seconds that a model may take in each form.

    Raises:
      UserError: for a target that has no estimates, or whose compiler is not installed.
    """
    device_of(target)
    for name, config in members.items():
        for each in forms:
            model = with_forms(config.model, ACCELERATOR) if each == PLAIN else config.model
            given = dataclasses.replace(config, model=model)
            say(f"{name}: estimating its train step on {target} with {NAMED[each]}")
            source = Source(name, KIND, to_dict(given), provenance=program_provenance())
            yield Results(source, tuple(_largest(given, target, each, timeout)))


def _largest(config: Config, target: str, forms: str, timeout: float) -> list[Record]:
    """Returns the records of a model in the largest batch that fits."""
    worker = Worker(None)
    try:
        answer = worker.ask(target, functools.partial(measure, config, target, forms), timeout)
    finally:
        worker.end()
    if isinstance(answer, UserError):
        raise answer
    if not isinstance(answer, Failed):
        return answer
    if answer.reason == OVERSIZED and config.batch > 1:
        half = dataclasses.replace(config, batch=config.batch // 2)
        return _largest(half, target, forms, timeout)
    at = _place(config, target, forms)
    return [Record(KIND, "estimated_s", at=at, status="failed", note=answer.reason)]


def _place(config: Config, target: str, forms: str) -> dict[str, Any]:
    return dict(target=target, forms=forms, context=config.length, batch=config.batch)


def measure(config: Config, target: str, forms: str) -> list[Record]:
    """Compiles a train step and returns its records; called in a worker.

    Args:
      config: says batch and length, too.
      target: one TPU.
      forms: their name in the records.

    Raises:
      NoResult: as `seqarch.costs.time.compiled_seconds`.
    """
    placement, made = place(target), []
    program = train_program(config, make_mesh(config.mesh, placement.devices()))

    def compile() -> Compiled:
        made.append(program.compile())
        return made[0]

    seconds, at = compiled_seconds(compile, placement), _place(config, target, forms)
    rate = step_flops(config) / seconds.total
    values = [
        ("params", count_parameters(config.model), ""),
        ("total_bytes", compiled_bytes(made[0]).total, ""),
        ("estimated_s", seconds.total, spent(seconds)),
        ("estimated_tokens_per_s", config.batch * config.length / seconds.total, ESTIMATED),
        ("estimated_mfu", rate / placement.target.flops, ESTIMATED),
    ]
    records = [Record(KIND, metric, value, at, note=note) for metric, value, note in values]
    repeats = abstract_model(config.model).repeats
    loops = config.optim.accumulate, repeats
    parts = program_parts(made[0].as_text(), placement, dump_directory(), loops)
    for part, own in sorted(parts.items(), key=lambda item: -item[1]):
        records.append(Record(KIND, SHARE, own / seconds.total, {**at, "part": part}))
    return records
