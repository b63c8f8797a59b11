"""Claims about the matrix of attention scores: how large it is, and when it is never built."""

import dataclasses

from seqarch.costs.memory import Measurement
from seqarch.errors import UserError
from seqarch.report.formats import format_bytes
from studies.claims.base import Claim, Finding, Means, near, verdict, written
from studies.claims.growth import ATTENTION, fitted, working

LONG, LONGER = 100_000, 1_000_000
TRAINED = (4096, 16384, 65536, 262144)


def scores(
    means: Means,
    target: str,
    length: int,
    *,
    heads: int = 1,
    layers: int = 1,
    dtype: str = "float32",
) -> Measurement | None:
    """Prefill of a prompt read at once by attention that builds its matrix, heads of 32
    channels.
    """
    config = means.small[ATTENTION["materialised"]]
    mixer = f"attention(heads={heads},method=materialised)"
    model = dataclasses.replace(
        config.model, mixer=mixer, layers=layers, dim=32 * heads, mlp=32, dtype=dtype, remat=False
    )
    return means.curve(
        dataclasses.replace(config, model=model, length=length), "prefill", target, (length,)
    ).get(length)


def size_of_matrix(means: Means) -> Finding:
    local, evidence = means.targets[0], {}
    shapes = {
        "one head, float32": {},
        "one head, bfloat16": dict(dtype="bfloat16"),
        "eight heads, float32": dict(heads=8),
        "one head, four layers, float32": dict(layers=4),
    }
    found = {}
    for target in means.one_of_each:
        for name, options in shapes.items():
            try:
                found[target, name] = {
                    n: scores(means, target, n, **options) for n in (LONG, LONGER)
                }
            except UserError as error:
                means.say(str(error))
                break
    for (target, name), measured in found.items():
        cells = {f"{n:,} tokens": format_bytes(m.working) for n, m in measured.items() if m}
        if measured[LONG]:
            heads = shapes[name].get("heads", 1)
            cells["bytes a score"] = f"{measured[LONG].working / (heads * LONG**2):.2f}"
        evidence[f"{name}, {target}"] = cells
    one = found[local, "one head, float32"]
    if not (one[LONG] and one[LONGER]):
        raise UserError("the compiler does not say what a head at such lengths needs")
    return Finding(
        verdict(
            [
                LONG**2 == 10**10,
                1e11 <= 16 * LONG**2 < 1e12,
                1e11 <= one[LONG].working < 1e12,
                5e11 <= one[LONGER].working <= 1e12,
            ]
        ),
        f"one head of {LONG:,} tokens: {LONG**2:.0e} scores, {format_bytes(one[LONG].working)} "
        f"in float32; of {LONGER:,}: "
        f"{format_bytes(one[LONGER].working)}",
        f"The number of scores is right, {LONG:,}^2 for each head, and so are "
        f"{format_bytes(16 * LONG**2)} at 128 bits for "
        "each, but that is a format that no accelerator multiplies. Programs hold scores, "
        "weights and masks at once, "
        f"{one[LONG].working / LONG**2:.0f} bytes a score here; 16-bit scores alone are "
        f"{format_bytes(2 * LONG**2)}. Ten "
        f"times the tokens are {one[LONGER].working / one[LONG].working:.0f} times the bytes, "
        "so a range of 0.5 to 1 TB at "
        f"{LONGER:,} tokens does not follow from the same format. Heads multiply it, layers do "
        "not: one layer's is free "
        "before the next begins, unless training keeps them.",
        evidence,
    )


def never_built(means: Means) -> Finding:
    evidence, squared = {}, []
    for target in means.one_of_each:
        for form, name in ATTENTION.items():
            try:
                curve = means.curve(means.small[name], "train", target, TRAINED)
            except UserError as error:
                means.say(str(error))
                break
            fit = fitted(curve, working)
            evidence[f"{form}, {target}"] = {
                **{f"{n:,} tokens": format_bytes(m.working) for n, m in curve.items()},
                "exponent": written(fit),
            }
            if form == "blockwise":
                squared.append(near(fit, 2))
    shown, local = f"{TRAINED[-1]:,} tokens", means.targets[0]
    built, blocks = (evidence[f"{form}, {local}"].get(shown, "-") for form in ATTENTION)
    return Finding(
        verdict(squared),
        f"training on {TRAINED[-1]:,} tokens: {built} with the matrix, {blocks} without",
        (
            "Softmax can be summed block by block (Milakov and Gimelshein 2018; Rabe and Staats "
            "2021; Dao et al. 2022), forward and backward, with the same values and gradients to "
            "rounding: tests hold both forms to one definition. The scores of a block are all that "
            "has to exist at a time; operations grow with N^2 in either form. The claim is of N^2, "
            "so an exponent of 2 would confirm it. A TPU's plan leaves out what lies in its vector "
            "memory, which weighs for short lengths."
        ),
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
