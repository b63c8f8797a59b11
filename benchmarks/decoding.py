"""Estimates how long an absent TPU takes to decode a token, after more and more tokens.

    python scripts/tune.py --target=tpu-v5e --models=all --decode=1024,16384,65536

One sequence is decoded. The roofline is the time to read the parameters and the state once.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.estimates import device_of
from seqarch.config import Config
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.results import EVALUATOR, place_of, program_records, program_source
from seqarch.costs.spec import ProgramSpec
from seqarch.costs.speed import speed_records
from seqarch.records import Record, Results
from seqarch.report.tables import Column, Row, Table
from seqarch.runtime.progress import Say

PHASE = "decode"


def estimate(
    members: Mapping[str, Config], target: str, contexts: Sequence[int], say: Say
) -> Iterator[Results]:
    """Yields what a decoding step of each member needs, its estimated time and its roofline.

    Args:
      members: configs by name.
      target: one TPU.
      contexts: tokens that the state is made for.
      say: takes lines of progress.

    Raises:
      UserError: for a target that has no estimates, or whose compiler is not installed.
    """
    device_of(target)
    with tempfile.TemporaryDirectory() as directory, MeasurementCache(Path(directory)) as cache:
        for name, config in members.items():
            say(f"{name}: estimating its decoding on {target}")
            found = []
            for context in contexts:
                found += _measured(cache, ProgramSpec(config, PHASE, 1, context, target))
            yield Results(program_source(name, config), tuple(found))


def _measured(cache: MeasurementCache, spec: ProgramSpec) -> Iterator[Record]:
    outcome, (timing,) = cache.measure(spec), cache.estimate_all([spec])
    yield from program_records(outcome, place_of(spec))
    yield from speed_records(spec, outcome, timing)


def decoding_table(found: Sequence[Results]) -> Table:
    """Returns the bytes of state, the estimated time of a token and its roofline, by context."""
    contexts = sorted({each.at["context"] for results in found for each in results.records})
    columns = [Column("model")]
    for context in contexts:
        columns += [Column(f"state @ {context:,}", "bytes"), Column(f"ms @ {context:,}", "ms")]
        columns += [Column(f"roofline @ {context:,}", "ms")]
    rows = []
    for results in found:
        cells = [results.source.member]
        for context in contexts:
            cells += [
                _value(results, "state_bytes", context),
                _value(results, "estimated_s", context, 1e3),
                _value(results, "bound_s", context, 1e3),
            ]
        rows.append(Row((*cells, results.source.revision)))
    caption = (
        "Milliseconds to decode a token of one sequence in bfloat16, where the state is for so "
        "many tokens and full. The roofline reads parameters and state once."
    )
    return Table("Decoding", caption, (*columns, Column("revision", "revision")), tuple(rows))


def _value(results: Results, metric: str, context: int, factor: float = 1) -> float | None:
    """Returns a value times a factor; None where there is none."""
    (value,) = [each.value for each in results.all(EVALUATOR, metric, context=context)] or [None]
    return None if value is None else factor * value
