"""Claims about the matrix of attention scores: how large it is, and when it is never built."""

import dataclasses
from collections.abc import Mapping

from seqarch.costs.memory import Measurement
from seqarch.errors import UserError
from seqarch.report.formats import format_bytes
from studies.claims.base import (
    Cell,
    Claim,
    Finding,
    Quantity,
    Setup,
    bytes_cell,
    exponent_cell,
    near,
    verdict,
)
from studies.claims.growth import ATTENTION, fitted, working

LONG, LONGER = 100_000, 1_000_000
TRAINED = (4096, 16384, 65536, 262144)
SHAPES = {
    "one head, float32": {},
    "one head, bfloat16": dict(dtype="bfloat16"),
    "eight heads, float32": dict(heads=8),
    "one head, four layers, float32": dict(layers=4),
}


def scores(
    setup: Setup,
    target: str,
    length: int,
    *,
    heads: int = 1,
    layers: int = 1,
    dtype: str = "float32",
) -> Measurement | None:
    """Measures prefill of a prompt at once by attention that builds its matrix.

    Heads have 32 channels.
    """
    config = setup.small[ATTENTION["materialised"]]
    mixer = f"attention(heads={heads},method=materialised)"
    model = dataclasses.replace(
        config.model, mixer=mixer, layers=layers, dim=32 * heads, mlp=32, dtype=dtype, remat=False
    )
    return setup.curve(
        dataclasses.replace(config, model=model, length=length), "prefill", target, (length,)
    ).get(length)


def size_of_matrix(setup: Setup) -> Finding:
    found = _matrices(setup)
    one = found[setup.targets[0], "one head, float32"]
    if not (one[LONG] and one[LONGER]):
        raise UserError("the compiler does not say what a head at such lengths needs")
    long, longer = one[LONG].working, one[LONGER].working
    parts = [
        LONG**2 == 10**10,
        1e11 <= 16 * LONG**2 < 1e12,
        1e11 <= long < 1e12,
        5e11 <= longer <= 1e12,
    ]
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
        {f"{name}, {target}": _row(name, each) for (target, name), each in found.items()},
    )


def _matrices(setup: Setup) -> dict[tuple[str, str], dict[int, Measurement | None]]:
    """Measurements at both lengths, by target and shape; a target without a compiler has none."""
    found = {}
    for target in setup.one_per_platform:
        for name, options in SHAPES.items():
            try:
                measured = {n: scores(setup, target, n, **options) for n in (LONG, LONGER)}
            except UserError as error:
                setup.say(str(error))
                break
            found[target, name] = measured
    return found


def _row(name: str, measured: Mapping[int, Measurement | None]) -> dict[str, Cell]:
    cells = {f"{n:,} tokens": bytes_cell(each.working) for n, each in measured.items() if each}
    if measured[LONG]:
        numbers = SHAPES[name].get("heads", 1) * LONG**2
        cells["bytes a score"] = Quantity(measured[LONG].working / numbers, "ratio")
    return cells


def never_built(setup: Setup) -> Finding:
    evidence, squared = {}, []
    for target in setup.one_per_platform:
        for form, name in ATTENTION.items():
            try:
                curve = setup.curve(setup.small[name], "train", target, TRAINED)
            except UserError as error:
                setup.say(str(error))
                break
            fit = fitted(curve, working)
            cells = {f"{n:,} tokens": bytes_cell(each.working) for n, each in curve.items()}
            evidence[f"{form}, {target}"] = cells | {"exponent": exponent_cell(fit)}
            if form == "blockwise":
                squared.append(near(fit, 2))
    shown, local = f"{TRAINED[-1]:,} tokens", setup.targets[0]
    built, blocks = (evidence[f"{form}, {local}"].get(shown, "-") for form in ATTENTION)
    return Finding(
        verdict(squared),
        f"training on {TRAINED[-1]:,} tokens: {built} with the matrix, {blocks} without",
        "Softmax can be summed block by block (Milakov and Gimelshein 2018; Rabe and Staats "
        "2021; Dao et al. 2022), forward and backward, with the same values and gradients to "
        "rounding: tests hold both forms to one definition. The scores of a block are all that "
        "has to exist at a time; operations grow with N^2 in either form. The claim is of N^2, "
        "so an exponent of 2 would confirm it. A TPU's plan leaves out what lies in its vector "
        "memory, which weighs for short lengths.",
        evidence,
    )


CLAIMS = (
    Claim(
        (
            "The attention matrix of 100,000 tokens holds 10^10 scores, hundreds of gigabytes at "
            "128 bits, and 0.5 to 1 TB at a million tokens."
        ),
        (
            "Programs of one head and more that build the matrix, compiled; nothing is allocated. "
            "The number of scores and their bytes at 128 bits are arithmetic, and two of the four "
            "parts of the verdict."
        ),
        size_of_matrix,
    ),
    Claim(
        "Attention must hold an N x N matrix.",
        "Train steps of both forms of attention, compiled, at four lengths.",
        never_built,
    ),
)
