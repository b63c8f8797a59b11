"""Claims about what a sequence keeps: one hidden vector, sparse caches, hybrids."""

import itertools
from collections.abc import Iterator

from seqarch import records
from seqarch.config import ModelConfig
from seqarch.costs.memory import state_bytes
from seqarch.records import Record, Results
from seqarch.report.comparison import significance
from seqarch.report.formats import format_bytes, show
from seqarch.report.members import Comparison, read
from seqarch.report.tables import Column
from studies.claims.base import Claim, Finding, Verdict, verdict
from studies.claims.evidence import LOCAL, STATE, TOLD_APART, WORKING, record, value
from studies.claims.growth import ATTENTION, CONSTANT
from studies.claims.setup import SIZES, Setup

MILLION = 2**20
FULL, WINDOW = ATTENTION["blockwise"], "attention window 1024"
HYBRID, GROUPED = "hybrid", "attention grouped"
CONTEXT = 16384  # tokens of the train steps that are compared
DECODED = 4096  # tokens of context of the decoding that is compared
ENDS = {"mamba": "mamba", HYBRID: HYBRID, "attention": FULL}  # in the long comparison, and here
TRAINED = dict(phase="train", target=LOCAL, context=CONTEXT)
QUALITY, SPEED = "bits_per_byte", "decode_tokens_per_s"
MEASURES = {  # what a hybrid is compared in: title, unit and place, by metric
    STATE: (f"state at {MILLION:,} tokens", "bytes", dict(context=MILLION)),
    WORKING: (f"training on {CONTEXT:,} tokens, beside parameters", "bytes", TRAINED),
    QUALITY: ("bits per byte", "bits", {}),
    SPEED: (f"decoded tokens/s at {DECODED:,}", "rate", dict(context=DECODED)),
}


def crossing(model: ModelConfig, cache: ModelConfig) -> float:
    """Returns the context at which the cache of `cache` is as large as the state of `model`.

    A cache is affine in the context, and the other state is constant.
    """
    first, second = state_bytes(cache, 1), state_bytes(cache, 2)
    return 1 + (state_bytes(model, 1) - first) / (second - first)


def measure_vectors(setup: Setup) -> Iterator[Record]:
    for size, members in setup.sizes.items():
        for name in CONSTANT:
            model, at = members[name].model, dict(model=name, parameters=size)
            yield record(STATE, state_bytes(model, 1), **at)
            yield record("vector_bytes", 4 * model.dim * model.layers, **at)
            for cache in (FULL, GROUPED):
                yield record("crossing", crossing(model, members[cache].model), **at, cache=cache)


def judge_vectors(found: Results) -> Finding:
    rows = {}
    for size, name in itertools.product(SIZES, CONSTANT):
        at = dict(model=name, parameters=size)
        state, vector = (value(found, metric, **at) for metric in (STATE, "vector_bytes"))
        caches = [value(found, "crossing", **at, cache=cache) for cache in (FULL, GROUPED)]
        rows[f"{name}, {size}"] = state, state / vector, *caches
    mamba, linear = rows["mamba, 8B"], rows["linear_attention, 8B"]
    return Finding(
        verdict(vectors <= 1.1 for _, vectors, *_ in rows.values()),
        f"at 8B parameters Mamba keeps {mamba[1]:.1f} vectors a layer ({format_bytes(mamba[0])}), "
        f"linear attention {linear[1]:.1f} ({format_bytes(linear[0])})",
        "A GRU's state is a float32 vector of the width for each layer. Mamba keeps N = 16 "
        "numbers for each of its 2 D inner channels and the tail of its convolution, linear "
        "attention a matrix and a normaliser for each head. A cache grows past the state after "
        f"{mamba[2]:,.0f} tokens (Mamba) and {linear[2]:,.0f} tokens (linear attention): "
        "below, the constant state is the larger one.",
        [
            Column("state", "bytes"),
            Column("hidden vectors a layer", "ratio"),
            Column("tokens of a cache as large", "number"),
            Column("tokens of a grouped one", "number"),
        ],
        rows,
    )


def measure_sparse(setup: Setup) -> Iterator[Record]:
    for size, members in setup.sizes.items():
        for name in (FULL, WINDOW):
            for n in (1024, MILLION):
                at = dict(model=name, parameters=size, context=n)
                yield record(STATE, state_bytes(members[name].model, n), **at)


def judge_sparse(found: Results) -> Finding:
    rows = {}
    for size in SIZES:
        at = dict(parameters=size, context=MILLION)
        full, window = (value(found, STATE, model=name, **at) for name in (FULL, WINDOW))
        rows[f"all keys, {size}"] = full, 1.0
        rows[f"window of 1,024, {size}"] = window, window / full
    small = dict(model=WINDOW, parameters="1M")
    short, long = (value(found, STATE, **small, context=n) for n in (1024, MILLION))
    return Finding(
        Verdict.QUALIFIED if long < short * 1.01 else Verdict.REFUTED,
        f"a window keeps {show(rows['window of 1,024, 8B'][1], 'percent')} of the cache at "
        f"{MILLION:,} tokens; patterns that choose keys keep all",
        "A window forgets, so its state is bounded. Block-sparse patterns with global or "
        "random blocks (Child et al. 2019; Zaheer et al. 2020) and LSH attention (Kitaev et "
        "al. 2020) compute fewer scores, but a later query may choose any key: every key and "
        "value stays, and the cache is that of the first row. These are not built here, so "
        "that sentence is an argument and not a measurement. What they cut is the matrix and "
        "the reads.",
        [Column(f"state at {MILLION:,} tokens", "bytes"), Column("share", "percent")],
        rows,
    )


def measure_hybrids(setup: Setup) -> Iterator[Record]:
    """Yields bytes that are measured here, and quality and speed of the long comparison."""
    comparison = read(setup.docs / "results" / records.NAME)
    compared = {member.name: member for member in comparison.members}
    for shown, name in ENDS.items():
        config, member = setup.small[name], compared[shown]
        yield record(STATE, state_bytes(config.model, MILLION), model=shown, context=MILLION)
        yield from setup.curve(config, "train", LOCAL, (CONTEXT,), model=shown)
        yield record(QUALITY, member.value("quality", QUALITY), model=shown)
        speed = member.value("speed", SPEED, context=DECODED)
        yield record(SPEED, speed, model=shown, context=DECODED)
    for name in ("mamba", "attention"):
        yield record(TOLD_APART, int(_told_apart(comparison, name)), model=name)


def _told_apart(comparison: Comparison, name: str) -> bool:
    """Whether the quality of `name` is told apart from the hybrid's: they share no letter."""
    judged = significance(comparison.models)
    letters, hybrid = (set(judged[each].letters.split()) for each in (name, HYBRID))
    return not letters & hybrid


def judge_hybrids(found: Results) -> Finding:
    alike = [name for name in ("mamba", "attention") if not value(found, TOLD_APART, model=name)]
    rows, between = {}, []
    for metric, (title, unit, at) in MEASURES.items():
        low, middle, high = (value(found, metric, model=name, **at) for name in ENDS)
        if metric == QUALITY and alike:
            said = f"not told apart from {' and '.join(alike)}"
        else:
            between.append(min(low, high) <= middle <= max(low, high))
            said = "yes" if between[-1] else "no"
        rows[title] = *(show(each, unit) for each in (low, middle, high)), said
    return Finding(
        verdict(between),
        f"between Mamba and attention in {sum(between)} of the {len(between)} measures that "
        "tell them apart",
        "State, training and decoding lie between where layers add up: each attention layer "
        "has its cache. Quality does not have to: a hybrid may be better than both of its "
        "parts. Quality and speed are those of docs/results.md, bytes those of "
        "configs/memory.py; both have two layers, so one of each.",
        [*(Column(name, "size") for name in ENDS), Column("between")],
        rows,
    )


CLAIMS = (
    Claim(
        "hidden vectors",
        "A recurrent model compresses everything into a single hidden vector.",
        (
            "Bytes of the state, in hidden vectors of the model's width, and the context at "
            "which a KV cache is as large."
        ),
        measure_vectors,
        judge_vectors,
    ),
    Claim(
        "sparse attention",
        "Sparse attention patterns cut memory.",
        "Bytes of the state at a million tokens, with a window and without.",
        measure_sparse,
        judge_sparse,
    ),
    Claim(
        "hybrids",
        "Hybrids sit in between.",
        "State, training bytes, quality and speed of a hybrid beside those of its parts.",
        measure_hybrids,
        judge_hybrids,
    ),
)
