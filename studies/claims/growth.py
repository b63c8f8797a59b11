"""Claims about how memory grows with the context: N^2, exponential, constant."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from seqarch import records
from seqarch.config import Config
from seqarch.costs.memory import state_bytes
from seqarch.errors import UserError
from seqarch.records import Record, Results
from seqarch.report.formats import format_bytes, format_exponent
from seqarch.report.tables import Column
from seqarch.stats.exponents import growth
from studies import long_decode
from studies.claims.base import Claim, Finding, near, verdict
from studies.claims.evidence import LOCAL, STATE, WORKING, common, curve, fitted, record, value
from studies.claims.setup import AT_ONCE, Setup

ATTENTION = {"materialised": "attention materialised", "blockwise": "attention multi-head"}
CONSTANT = ("gru", "linear_attention", "mamba")
PARTS = 64  # equal parts of N at whose ends the cache is measured
GROWS = {  # the metrics that grow with the context, by phase
    "train": ("training", [WORKING]),
    AT_ONCE: ("a prompt read at once", [WORKING]),
    "prefill": ("a prompt read in segments", [WORKING, STATE]),
    "decode": ("decoding (the cache)", [STATE]),
}


def curves(setup: Setup, names: Sequence[str], phases: Sequence[str]) -> Iterator[Record]:
    """Yields the bytes that small members need on the local device, by phase and context."""
    for name in names:
        for phase in phases:
            yield from setup.curve(setup.small[name], phase, LOCAL, setup.lengths, model=name)


def measure_inference(setup: Setup) -> Iterator[Record]:
    yield from curves(setup, [*ATTENTION.values()], [*GROWS])


def judge_inference(found: Results) -> Finding:
    fits = {}
    for form, name in ATTENTION.items():
        for phase, (title, metrics) in GROWS.items():
            at = dict(model=name, phase=phase)
            parts = common(*(curve(found, metric, **at) for metric in metrics))
            sizes = {n: sum(part[n] for part in parts) for n in parts[0]}
            fits[f"{form}, {title}"] = fitted(sizes)
    squares = [f"'{name}'" for name, fit in fits.items() if near(fit, 2)]
    serving = [near(fit, 2) for name, fit in fits.items() if "training" not in name]
    shown = {name: format_exponent(fit) for name, fit in fits.items()}
    return Finding(
        verdict(serving),
        f"exponent {shown['materialised, decoding (the cache)']} in decoding, "
        f"{shown['blockwise, a prompt read at once']} in prefill, "
        f"{shown['materialised, a prompt read at once']} where prefill builds the matrix",
        f"Of these eight, {' and '.join(squares) or 'none'} grow with N^2: those that build the "
        "matrix of scores. What is left is a cache with a slot a token. Time is another matter: "
        "the products of a prompt grow with N^2 in any form.",
        [Column("exponent", "exponent")],
        {name: [fit] for name, fit in fits.items()},
    )


def measure_exponential(setup: Setup) -> Iterator[Record]:
    yield from curves(setup, [*ATTENTION.values()], ["train", "decode"])


def judge_exponential(found: Results) -> Finding:
    factors = {}
    for form, name in ATTENTION.items():
        for phase, metric in {"train": WORKING, "decode": STATE}.items():
            sizes = curve(found, metric, model=name, phase=phase)
            if len(sizes) < 3:
                raise UserError(
                    "too few lengths could be measured to tell a power from an exponential; "
                    "give more --lengths"
                )
            fit = growth(list(sizes), list(sizes.values()))
            factors[f"{form}, {phase}"] = math.exp(fit.power), math.exp(fit.exponential)
    power, exponential = factors["materialised, train"]
    return Finding(
        verdict(exponential < power for power, exponential in factors.values()),
        "bytes of training with the matrix are a factor of "
        f"{power:.2f} off a power of N and {exponential:.2f} off an exponential",
        "The factor is the root mean square of what a line in log(N), and one in N, leave of "
        "log(bytes). An exponential is a line in the second; every curve here is one in the "
        "first. Quadratic growth is steep, and polynomial.",
        [
            Column("factor off a power of N", "ratio"),
            Column("factor off an exponential of N", "ratio"),
        ],
        factors,
    )


def measure_cache(setup: Setup) -> Iterator[Record]:
    config = setup.small[ATTENTION["blockwise"]]
    for n in setup.lengths:
        yield record(STATE, state_bytes(config.model, n), context=n)
        yield record("read_bytes", _read_bytes(config, n), context=n)


def _read_bytes(config: Config, n: int) -> int:
    """Bytes of the cache that n steps of decoding read, as if it grew in PARTS equal parts."""
    ends = (n * part // PARTS for part in range(1, PARTS + 1))
    return sum(state_bytes(config.model, end) for end in ends) * n // PARTS


def judge_cache(found: Results) -> Finding:
    held, read = common(*(curve(found, metric) for metric in (STATE, "read_bytes")))
    holds, reads = fitted(held), fitted(read)
    last = max(held)
    return Finding(
        verdict([near(holds, 2), near(reads, 2)]),
        f"bytes held grow with N^{holds.b:.2f}, bytes read by N steps with N^{reads.b:.2f}",
        f"A cache of {last:,} tokens holds {format_bytes(held[last])} in this model; decoding "
        f"so many tokens reads {format_bytes(read[last])} of caches, since step n reads n "
        "slots. The quadratic is traffic, so time and energy, not memory.",
        [Column("held", "bytes"), Column("read in decoding them", "bytes")],
        {f"{n:,} tokens": [held[n], read[n]] for n in held},
    )


def measure_constant(setup: Setup) -> Iterator[Record]:
    path = setup.docs / "decoding" / records.NAME
    decoded = long_decode.read(path)
    if absent := [name for name in CONSTANT if not decoded.get(name)]:
        raise UserError(f"{path} has no {', '.join(absent)}; run scripts/long_decode.py")
    yield from curves(setup, CONSTANT, ["decode", "train"])
    for name in CONSTANT:
        for point in (decoded[name][0], decoded[name][-1]):
            yield record("resident_bytes", point.resident, model=name, context=point.tokens)
        config = setup.small[name]
        for factor in (1, 2):
            model = dataclasses.replace(config.model, dim=factor * config.model.dim)
            yield record(STATE, state_bytes(model, 1), model=name, width_factor=factor)


def judge_constant(found: Results) -> Finding:
    rows, flat, grows = {}, [], []
    for name in CONSTANT:
        serving = fitted(curve(found, STATE, model=name, phase="decode"))
        training = fitted(curve(found, WORKING, model=name, phase="train"))
        resident = curve(found, "resident_bytes", model=name)
        first, last = min(resident), max(resident)
        if first == last:
            raise UserError(f"{name} was decoded to one length only; run scripts/long_decode.py")
        grown = resident[last] / resident[first] - 1
        flat.append(near(serving, 0) and grown < 0.01)
        grows.append(near(training, 1))
        width, wider = (value(found, STATE, model=name, width_factor=n) for n in (1, 2))
        rows[name] = serving, training, grown, wider / width
    return Finding(
        verdict([*flat, not any(grows)]),
        "decoding " + ", ".join(f"{name} {format_exponent(row[0])}" for name, row in rows.items()),
        "True of decoding, where the state is all that is kept, at a fixed width and depth; a "
        "million tokens were really decoded. Training keeps activations of every token, so it "
        "grows with N for them as for all others. And constant is not free: what such a state "
        "can recall is bounded, and wider models pay in state, linear attention with the "
        "square of a head's width.",
        [
            Column("decoding", "exponent"),
            Column("training", "exponent"),
            Column(f"growth of resident memory over {last - first:,} tokens", "percent"),
            Column("factor of the state at twice the width", "ratio"),
        ],
        rows,
    )


CLAIMS = (
    Claim(
        "memory of inference",
        "The memory of inference is proportional to N^2.",
        (
            "Exponents of the bytes that compiled programs need beside the parameters, by "
            "phase and by form of attention."
        ),
        measure_inference,
        judge_inference,
    ),
    Claim(
        "exponential growth",
        "The memory of attention grows exponentially.",
        "Two fits of the same curves: log(bytes) by log(N), and by N.",
        measure_exponential,
        judge_exponential,
    ),
    Claim(
        "growth of the cache",
        "The KV cache grows quadratically.",
        (
            "Bytes of the cache after N tokens, and, computed from these, what N steps that "
            "read all filled slots once read."
        ),
        measure_cache,
        judge_cache,
    ),
    Claim(
        "constant memory",
        "Recurrent models need constant memory, whatever the length.",
        (
            "Exponents of state and of training, and the record of a million decoded tokens "
            "(docs/decoding/records.jsonl)."
        ),
        measure_constant,
        judge_constant,
    ),
)
