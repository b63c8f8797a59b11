"""Decoding very long texts: resident memory and time a token, as they were and not as they should
be.
"""

import dataclasses
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqarch.config import Config, parse
from seqarch.costs.memory import state_size, tree_bytes
from seqarch.errors import UserError
from seqarch.generate import Decoding, Sampling, decode_unchecked, prefill
from seqarch.model import LanguageModel
from seqarch.provenance import provenance
from seqarch.report.formats import format_bytes
from seqarch.report.tables import Column, Row, Table
from seqarch.runtime import cli
from seqarch.runtime.resident import used
from seqarch.runtime.stopwatch import Stopwatch
from seqarch.tasks.text.tokenizer import BOUNDARY

PIECE = 1000  # tokens that are decoded between two looks at the clock
POINTS = 100  # of a record
LAST = 256  # tokens that a filled cache decodes

MODEL, TOKENS = ("model", "text"), ("tokens", "count")
CONSTANT = (MODEL, TOKENS, ("state", "bytes"), ("resident, first", "bytes"))  # columns
CONSTANT += (("resident, last", "bytes"), ("least us", "count"), ("median us", "count"))
CONSTANT += (("most us", "count"),)
DOUBLED = (MODEL, TOKENS, ("cache", "bytes"), ("resident", "bytes"), ("us a token", "count"))


class Point(NamedTuple):
    """tokens: decoded so far; slots: that the state was made for; seconds: a token, over the tokens
    since the point before.

    resident: bytes of the process, or in use on the first device, when these were decoded; state:
      of the states
    """

    tokens: int
    slots: int
    seconds: float
    resident: int
    state: int


def record(config: Config, mixer: str, tokens: int, cache_bytes: int) -> Iterator[Point]:
    """Decodes greedily from an untrained model, whose time and memory are those of a trained one.

    A constant state decodes all `tokens` tokens. One that grows is made for more and more tokens,
    twice as many each time, as long as it takes at most `cache_bytes`; each time a real prefill
    fills all but its last LAST tokens, which are decoded.
    """
    model_config = dataclasses.replace(config.model, mixer=mixer)
    model = jax.jit(lambda key: LanguageModel(model_config, rngs=nnx.Rngs(key)).serving())(
        jax.random.key(0)
    )
    if all(block.mixer.constant_state for block in model.blocks()):
        yield from _decode(model, _begin(model, tokens), 0, tokens, tokens // POINTS)
        return
    slots = 4 * LAST
    while slots <= tokens and state_size(model, slots).bytes <= cache_bytes:
        yield from _decode(model, _filled(model, slots, slots - LAST), slots - LAST, slots, LAST)
        slots *= 2


def _begin(model: LanguageModel, slots: int) -> Decoding:
    states = jax.jit(lambda model: model.init_state(1, slots))(model)
    return Decoding(jnp.zeros((1, model.head.shape[1])), states, jnp.zeros(1, bool))


def _filled(model: LanguageModel, slots: int, count: int) -> Decoding:
    """After `count` tokens, read as `generate` reads a prompt."""
    prompt = np.resize(np.arange(BOUNDARY), count).tolist()
    return Decoding(*prefill(model, [prompt], _begin(model, slots).states), jnp.zeros(1, bool))


def _decode(
    model: LanguageModel, at: Decoding, first: int, tokens: int, every: int
) -> Iterator[Point]:
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
            yield Point(done, tokens, seconds, held, state)
            since = done
            watch.restart()


def read(path: Path) -> dict[str, dict[str, Any]]:
    """What scripts/long_decode.py wrote, by mixer: what produced it, and its `points`. Raises
    UserError for another file.
    """
    try:
        found = json.loads(path.read_text())["mixers"]
        for each in found.values():
            [Point(**point) for point in each["points"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no record of scripts/long_decode.py; move it away, or give another --out"
        ) from error
    return found


def tables(found: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Returns what the record says: constant states, and caches, which doubled."""
    points = {name: [Point(**each) for each in made["points"]] for name, made in found.items()}
    constant, doubled = [], []
    for name, each in points.items():
        if len({point.slots for point in each}) == 1:
            constant.append(Row((name, *_summary(each))))
        else:
            doubled += [Row((name, *_cache(point))) for point in each]
    return [
        Table(
            "A million tokens, decoded",
            "Constant states: bytes of the state, resident memory at the first and the last point, "
            "and microseconds a token: least, median and most of all points.",
            tuple(Column(*each) for each in CONSTANT),
            tuple(constant),
        ),
        Table(
            "Caches that double",
            "Each filled by a real prefill, at whose end tokens are decoded.",
            tuple(Column(*each) for each in DOUBLED),
            tuple(doubled),
        ),
    ]


def _summary(points: Sequence[Point]) -> tuple:
    times = [point.seconds * 1e6 for point in points]
    first, last = points[0], points[-1]
    spread = min(times), statistics.median(times), max(times)
    return last.tokens, last.state, first.resident, last.resident, *map(round, spread)


def _cache(point: Point) -> tuple:
    return point.tokens, point.state, point.resident, round(point.seconds * 1e6)


def describe(point: Point) -> str:
    sizes = f"state {format_bytes(point.state)}, resident {format_bytes(point.resident)}"
    return f"{point.tokens:,} tokens, {1e6 * point.seconds:.0f} us a token, {sizes}"


def main(asked: str) -> None:
    """Prints what produced the record, then its points, as lines of JSON; see
    scripts/long_decode.py.
    """
    given = json.loads(asked)
    config = parse(given["config"])
    print(json.dumps(provenance() | dict(config=given["config"])), flush=True)
    for point in record(config, given["mixer"], given["tokens"], given["cache_bytes"]):
        print(json.dumps(point._asdict()), flush=True)


if __name__ == "__main__":
    cli.run(lambda: main(sys.argv[1]), argv=sys.argv[:1])
