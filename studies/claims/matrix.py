"""Claims about the matrix of attention scores: how large it is, and when it is never built."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from seqarch.config import Config
from seqarch.records import Record, Results
from seqarch.report.formats import format_bytes, show
from seqarch.report.tables import Column
from studies.claims.base import Claim, Finding, near, verdict
from studies.claims.evidence import EVALUATOR, LOCAL, WORKING, fitted, places, value
from studies.claims.growth import ATTENTION
from studies.claims.setup import AT_ONCE, Setup

LONG, LONGER = 100_000, 1_000_000
TRAINED = (4096, 16384, 65536, 262144)
SHAPES = {
    "one head, float32": {},
    "one head, bfloat16": dict(dtype="bfloat16"),
    "eight heads, float32": dict(heads=8),
    "one head, four layers, float32": dict(layers=4),
}


def measure_size(setup: Setup) -> Iterator[Record]:
    """Yields the bytes of a prompt at once, read by attention that builds its matrix."""
    given = setup.small[ATTENTION["materialised"]]
    for target in setup.one_per_platform:
        for shape, options in SHAPES.items():
            config = _config(given, **options)
            yield from setup.curve(config, AT_ONCE, target, (LONG, LONGER), shape=shape)


def _config(given: Config, heads: int = 1, layers: int = 1, dtype: str = "float32") -> Config:
    """A model that builds its matrix, with heads of 32 channels."""
    mixer = f"attention(heads={heads},method=materialised)"
    sizes = dict(layers=layers, dim=32 * heads, mlp=32)
    model = dataclasses.replace(given.model, mixer=mixer, **sizes, dtype=dtype, remat=False)
    return dataclasses.replace(given, model=model)


def judge_size(found: Results) -> Finding:
    one = dict(phase=AT_ONCE, target=LOCAL, shape="one head, float32")
    long, longer = (value(found, WORKING, context=n, **one) for n in (LONG, LONGER))
    parts = [
        LONG**2 == 10**10,
        1e11 <= 16 * LONG**2 < 1e12,
        1e11 <= long < 1e12,
        5e11 <= longer <= 1e12,
    ]
    rows = {}
    for target in _targets(found):
        for shape, options in SHAPES.items():
            sizes = _sizes(found, (LONG, LONGER), phase=AT_ONCE, target=target, shape=shape)
            scores = options.get("heads", 1) * LONG**2
            rows[f"{shape}, {target}"] = *sizes, sizes[0] and sizes[0] / scores
    return Finding(
        verdict(parts),
        f"one head of {LONG:,} tokens: {LONG**2:.0e} scores, {format_bytes(long)} in float32; of "
        f"{LONGER:,}: {format_bytes(longer)}",
        f"The number of scores is right, {LONG:,}^2 for each head, and so are "
        f"{format_bytes(16 * LONG**2)} at 128 bits for each, but that is a format that no "
        "accelerator multiplies. Programs hold scores, weights and masks at once, "
        f"{long / LONG**2:.0f} bytes a score here; 16-bit scores alone are "
        f"{format_bytes(2 * LONG**2)}. Ten times the tokens are {longer / long:.0f} times the "
        f"bytes, so a range of 0.5 to 1 TB at {LONGER:,} tokens does not follow from the same "
        "format. Heads multiply it, layers do not: one layer's is free before the next begins, "
        "unless training keeps them.",
        [*_columns((LONG, LONGER)), Column("bytes a score", "ratio")],
        rows,
    )


def measure_training(setup: Setup) -> Iterator[Record]:
    for target in setup.one_per_platform:
        for name in ATTENTION.values():
            yield from setup.curve(setup.small[name], "train", target, TRAINED, model=name)


def judge_training(found: Results) -> Finding:
    rows, squared = {}, []
    for target in _targets(found):
        for form, name in ATTENTION.items():
            sizes = _sizes(found, TRAINED, phase="train", target=target, model=name)
            fit = fitted({n: size for n, size in zip(TRAINED, sizes, strict=True) if size})
            rows[f"{form}, {target}"] = *sizes, fit
            if form == "blockwise":
                squared.append(near(fit, 2))
    last = dict(phase="train", target=LOCAL, context=TRAINED[-1])
    ends = (found.value(EVALUATOR, WORKING, model=name, **last) for name in ATTENTION.values())
    built, blocks = (show(size, "bytes") for size in ends)
    return Finding(
        verdict(squared),
        f"training on {TRAINED[-1]:,} tokens: {built} with the matrix, {blocks} without",
        "Softmax can be summed block by block (Milakov and Gimelshein 2018; Rabe and Staats "
        "2021; Dao et al. 2022), forward and backward, with the same values and gradients to "
        "rounding: tests hold both forms to one definition. The scores of a block are all that "
        "has to exist at a time; operations grow with N^2 in either form. The claim is of N^2, "
        "so an exponent of 2 would confirm it. A TPU's plan leaves out what lies in its vector "
        "memory, which weighs for short lengths.",
        [*_columns(TRAINED), Column("exponent", "exponent")],
        rows,
    )


def _sizes(found: Results, lengths: Sequence[int], **at: Any) -> list[int | None]:
    return [found.value(EVALUATOR, WORKING, **at, context=n) for n in lengths]


def _columns(lengths: Sequence[int]) -> list[Column]:
    return [Column(f"{n:,} tokens", "bytes") for n in lengths]


def _targets(found: Results) -> list[str]:
    """The targets for which anything was compiled."""
    records = places(found, WORKING, {"target": str})
    return list(dict.fromkeys(each.at["target"] for each in records if each.value is not None))


CLAIMS = (
    Claim(
        "size of the matrix",
        (
            "The attention matrix of 100,000 tokens holds 10^10 scores, hundreds of gigabytes at "
            "128 bits, and 0.5 to 1 TB at a million tokens."
        ),
        (
            "Programs of one head and more that build the matrix, compiled; nothing is allocated. "
            "The number of scores and their bytes at 128 bits are arithmetic, and two of the four "
            "parts of the verdict."
        ),
        measure_size,
        judge_size,
    ),
    Claim(
        "matrix in training",
        "Attention must hold an N x N matrix.",
        "Train steps of both forms of attention, compiled, at four lengths.",
        measure_training,
        judge_training,
    ),
)
