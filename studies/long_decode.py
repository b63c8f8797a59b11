"""Decoding of very long texts: the resident memory and the time a token that were measured.

scripts/long_decode.py starts a process of this module for each mixer. The records of each are
arrays over the decoded tokens.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqarch import records
from seqarch.config import Config, parse, to_dict
from seqarch.costs.memory import state_size, tree_bytes
from seqarch.decoding import Decoding, decode_unchecked, prefill
from seqarch.errors import UserError
from seqarch.model import LanguageModel
from seqarch.patterns import parse_pattern
from seqarch.provenance import command, provenance, revision
from seqarch.records import Record, Results, Source
from seqarch.report.formats import format_bytes
from seqarch.runtime import cli
from seqarch.runtime.resident import used
from seqarch.runtime.stopwatch import Stopwatch
from seqarch.sampling import Sampling
from seqarch.tasks.text.tokenizer import BOUNDARY

EVALUATOR = "decoding"  # of the records
TITLE = "Decoding a million tokens"
METRICS = {  # the record of each field of a Point
    "slots": "slots",
    "seconds": "token_seconds",
    "resident": "resident_bytes",
    "state": "state_bytes",
}
PIECE = 1000  # tokens that are decoded between two looks at the clock
POINTS = 100  # points that a constant state yields
LAST = 256  # tokens that a filled cache decodes


class DecodingPoint(NamedTuple):
    """What was measured after so many tokens.

    Attributes:
      tokens: decoded so far.
      slots: tokens that the state was made for.
      seconds: of a token, the mean since the point before.
      resident: bytes of the process, or in use on the first device.
      state: bytes of the states.
    """

    tokens: int
    slots: int
    seconds: float
    resident: int
    state: int


def measure(config: Config, mixer: str, tokens: int, cache_bytes: int) -> Iterator[DecodingPoint]:
    """Decodes greedily from an untrained model, and yields what it took.

    The time and memory of an untrained model are those of a trained one. A constant state decodes
    all tokens. A cache is made for more and more tokens, twice as many each time; a real prefill
    fills all but its last LAST tokens, which are decoded.

    Args:
      config: of the model; `mixer` replaces its own.
      tokens: that a constant state decodes, and the most that a cache is made for.
      cache_bytes: of the largest cache.
    """
    model_config = dataclasses.replace(config.model, mixer=mixer)
    build = jax.jit(lambda key: LanguageModel(model_config, rngs=nnx.Rngs(key)).serving())
    model = build(jax.random.key(0))
    if all(block.mixer.constant_state for block in model.blocks()):
        yield from _decode(model, _begin(model, tokens), 0, tokens, tokens // POINTS)
        return
    slots = 4 * LAST
    while slots <= tokens and state_size(model, slots).bytes <= cache_bytes:
        yield from _decode(model, _filled(model, slots, slots - LAST), slots - LAST, slots, LAST)
        slots *= 2


def _begin(model: LanguageModel, slots: int) -> Decoding:
    states = jax.jit(lambda model: model.init_state(1, slots))(model)
    return Decoding(jnp.zeros((1, model.embedding.shape[0])), states, jnp.zeros(1, bool))


def _filled(model: LanguageModel, slots: int, count: int) -> Decoding:
    """After `count` tokens, read as `generate` reads a prompt."""
    prompt = np.resize(np.arange(BOUNDARY), count).tolist()
    return Decoding(*prefill(model, [prompt], _begin(model, slots).states), jnp.zeros(1, bool))


def _decode(
    model: LanguageModel, at: Decoding, first: int, tokens: int, every: int
) -> Iterator[DecodingPoint]:
    """Points from token `first` on, in pieces of at most PIECE tokens."""
    state, piece, key = tree_bytes(at.states), min(PIECE, every), jax.random.key(0)
    greedy = Sampling(temperature=0.0)
    program = decode_unchecked.lower(model, at, key, 0, steps=piece, sampling=greedy).compile()
    jax.block_until_ready(at)  # the prefill that fills a cache is still under way
    done, since, watch = first, first, Stopwatch()
    while done + piece <= tokens:
        _, at = program(model, at, key, done)
        done += piece
        if done - since >= every:
            jax.block_until_ready(at)
            seconds, held = watch.lap() / (done - since), used(jax.local_devices()[0])
            yield DecodingPoint(done, tokens, seconds, held, state)
            since = done
            watch.restart()


def results(
    config: Mapping[str, Any], mixer: str, made: Mapping[str, Any], points: Sequence[DecodingPoint]
) -> Results:
    """Returns the points of one mixer as records; `made` is their provenance."""
    config = {**config, "model": {**config["model"], "mixer": mixer}}
    at = {"tokens": [point.tokens for point in points]}
    found = []
    for field, metric in METRICS.items():
        found.append(Record(EVALUATOR, metric, [getattr(point, field) for point in points], at))
    return Results(Source(mixer, "program", config, provenance=made), tuple(found))


def read(path: Path) -> dict[str, list[DecodingPoint]]:
    """Returns the points of a records file, by mixer.

    Raises:
      UserError: where the file is not of this study.
    """
    found = records.read(path).results
    if not all(each.all(EVALUATOR, METRICS["slots"]) for each in found):
        raise UserError(f"{path} holds no long decoding; give another --out")
    return {each.source.member: points_of(each) for each in found}


def points_of(found: Results) -> list[DecodingPoint]:
    """Returns the points of the records of one mixer."""
    (slots,) = found.all(EVALUATOR, METRICS["slots"])
    arrays = [found.value(EVALUATOR, metric, **slots.at) for metric in METRICS.values()]
    return [DecodingPoint(*values) for values in zip(slots.at["tokens"], *arrays, strict=True)]


def describe(point: DecodingPoint) -> str:
    sizes = f"state {format_bytes(point.state)}, resident {format_bytes(point.resident)}"
    return f"{point.tokens:,} tokens, {1e6 * point.seconds:.0f} us a token, {sizes}"


def record_all(
    config: Config, mixers: Sequence[str], tokens: int, cache_bytes: int, path: Path
) -> list[Results]:
    """Decodes with each mixer in a process of its own, and writes the records after each.

    Args:
      config: the run's config, whose model gets each mixer in turn.
      mixers: layer patterns.
      tokens: tokens that a constant state decodes.
      cache_bytes: bytes of the largest key/value cache.
      path: the records file; what it holds of other mixers is kept.

    Raises:
      UserError: for an unknown mixer, where `path` is another file, and where a process fails.
    """
    for mixer in mixers:
        parse_pattern(mixer)
    source, found = revision(), _known(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for mixer in dict.fromkeys(mixers):
        given = dict(config=to_dict(config), mixer=mixer, tokens=tokens, cache_bytes=cache_bytes)
        found[mixer] = _decode_apart(given, source)
        records.write(path, list(found.values()), dict(kind=EVALUATOR, title=TITLE))
    return list(found.values())


def _known(path: Path) -> dict[str, Results]:
    """What an earlier call measured, by mixer; raises UserError for another file."""
    if not path.exists():
        return {}
    read(path)
    return {each.source.member: each for each in records.read(path).results}


def _decode_apart(given: Mapping[str, Any], source: Mapping[str, Any]) -> Results:
    """The records of one mixer, measured by `main` in a process of its own."""
    root = str(Path(__file__).parents[1])
    environment = os.environ | dict(
        PYTHONPATH=os.pathsep.join((root, os.environ.get("PYTHONPATH", "")))
    )
    program, points = [sys.executable, "-m", "studies.long_decode", json.dumps(given)], []
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment) as process:
        made = json.loads(process.stdout.readline() or "{}") | source | dict(command=command())
        for line in process.stdout:
            points.append(DecodingPoint(**json.loads(line)))
            print(f"{given['mixer']}: {describe(points[-1])}", flush=True)
    if process.returncode:
        raise UserError(
            f"decoding with {given['mixer']!r} ended with exit code {process.returncode}; see what "
            "it said above"
        )
    return results(given["config"], given["mixer"], made, points)


def main(asked: str) -> None:
    """Prints the provenance, then the points, as lines of JSON (scripts/long_decode.py reads them).

    Args:
      asked: a JSON object with config, mixer, tokens and cache_bytes.
    """
    given = json.loads(asked)
    config = parse(given["config"])
    print(json.dumps(provenance()), flush=True)
    for point in measure(config, given["mixer"], given["tokens"], given["cache_bytes"]):
        print(json.dumps(point._asdict()), flush=True)


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1]), argv=sys.argv[:1])
