"""Claims about how memory grows with the context: N^2, exponential, constant."""

import dataclasses
import math
from collections.abc import Callable, Mapping

from seqarch.config import Config
from seqarch.costs.memory import Measurement, state_bytes
from seqarch.errors import UserError
from seqarch.report.formats import format_bytes
from seqarch.stats.fits import exponent, growth
from studies.claims.base import Claim, Finding, Means, near, verdict, written
from studies.long_decode import read

ATTENTION = {"materialised": "attention materialised", "blockwise": "attention multi-head"}
CONSTANT = ("gru", "linear_attention", "mamba")

Part = Callable[[Measurement], int]
working: Part = lambda m: m.working
state: Part = lambda m: m.state


def fitted(curve: Mapping[int, Measurement], part: Part):
    return exponent(list(curve), [part(each) for each in curve.values()])


def prompts_at_once(means: Means, config: Config, target: str) -> dict[int, Measurement]:
    """Prefill of whole prompts, each as one segment."""
    found = {}
    for n in means.lengths:
        found |= means.curve(dataclasses.replace(config, length=n), "prefill", target, (n,))
    return found


def quadratic(means: Means) -> Finding:
    local, found = means.targets[0], {}
    for form, name in ATTENTION.items():
        config = means.small[name]
        found |= {
            f"{form}, training": fitted(means.curve(config, "train", local), working),
            f"{form}, a prompt read at once": fitted(
                prompts_at_once(means, config, local), working
            ),
            f"{form}, a prompt read in segments": fitted(
                means.curve(config, "prefill", local), lambda m: m.working + m.state
            ),
            f"{form}, decoding (the cache)": fitted(means.curve(config, "decode", local), state),
        }
    squares = [f"'{name}'" for name, fit in found.items() if near(fit, 2)]
    serving = [near(fit, 2) for name, fit in found.items() if "training" not in name]
    return Finding(
        verdict(serving),
        f"exponent {written(found['materialised, decoding (the cache)'])} in decoding, "
        f"{written(found['blockwise, a prompt read at once'])} in prefill, "
        f"{written(found['materialised, a prompt read at once'])} where prefill builds the matrix",
        f"Of these eight, {' and '.join(squares) or 'none'} grow with N^2: those that build the "
        "matrix of scores. What is "
        "left is a cache with a slot a token. Time is another matter: the products of a prompt "
        "grow with N^2 in any form.",
        {name: {"exponent": written(fit)} for name, fit in found.items()},
    )


def exponential(means: Means) -> Finding:
    local, evidence, better = means.targets[0], {}, []
    for form, name in ATTENTION.items():
        for phase, part in {"train": working, "decode": state}.items():
            curve = means.curve(means.small[name], phase, local)
            if len(curve) < 3:
                raise UserError(
                    "too few lengths could be measured to tell a power from an exponential; "
                    "give more --lengths"
                )
            fit = growth(list(curve), [part(each) for each in curve.values()])
            better.append(fit.exponential < fit.power)
            evidence[f"{form}, {phase}"] = {
                "off a power of N": f"x {math.exp(fit.power):.2f}",
                "off an exponential of N": f"x {math.exp(fit.exponential):.2f}",
            }
    return Finding(
        verdict(better),
        "bytes of training with the matrix are "
        f"{evidence['materialised, train']['off a power of N']} off a power of N and "
        f"{evidence['materialised, train']['off an exponential of N']} off an exponential",
        "As a factor, the root mean square of what a line in log(N), and one in N, leave of "
        "log(bytes). An exponential is a "
        "line in the second; every curve here is one in the first. Quadratic growth is steep, "
        "and polynomial.",
        evidence,
    )


def cache_reads(means: Means) -> Finding:
    config = means.small[ATTENTION["blockwise"]]
    held = {n: state_bytes(config, n) for n in means.lengths}
    read = {
        n: sum(state_bytes(config, n * part // PARTS) for part in range(1, PARTS + 1)) * n // PARTS
        for n in held
    }
    bytes_, reads = (exponent(list(each), list(each.values())) for each in (held, read))
    last, grows = max(held), [near(bytes_, 2), near(reads, 2)]
    return Finding(
        verdict(grows),
        f"bytes held grow with N^{bytes_.b:.2f}, bytes read by N steps with N^{reads.b:.2f}",
        (
            f"A cache of {last:,} tokens holds {format_bytes(held[last])} in this model; decoding "
            f"so many tokens reads {format_bytes(read[last])} of caches, since step n reads n "
            "slots. The quadratic is traffic, so time and energy, not memory."
        ),
        {
            f"{n:,} tokens": {
                "held": format_bytes(held[n]),
                "read in decoding them": format_bytes(read[n]),
            }
            for n in held
        },
    )


PARTS = 64  # equal parts of N at whose ends the cache is measured; it is read n times between


def constant(means: Means) -> Finding:
    local, evidence, flat, grows = means.targets[0], {}, [], []
    record = read(path := means.docs / "memory/long_decode.json")
    if absent := [name for name in CONSTANT if not record.get(name, {}).get("points")]:
        raise UserError(f"{path} has no {', '.join(absent)}; run scripts/long_decode.py")
    for name in CONSTANT:
        config = means.small[name]
        serving = fitted(means.curve(config, "decode", local), state)
        training = fitted(means.curve(config, "train", local), working)
        first, last = (record[name]["points"][i] for i in (0, -1))
        grown = (last["resident"] - first["resident"]) / first["resident"]
        flat.append(near(serving, 0) and grown < 0.01)
        grows.append(near(training, 1))
        wider = state_bytes(
            dataclasses.replace(
                config, model=dataclasses.replace(config.model, dim=2 * config.model.dim)
            ),
            1,
        )
        evidence[name] = {
            "decoding": written(serving),
            "training": written(training),
            (
                f"resident memory over {last['tokens'] - first['tokens']:,} decoded tokens"
            ): f"{100 * grown:+.2f} %",
            "state at twice the width": f"x {wider / state_bytes(config, 1):.2f}",
        }
    return Finding(
        verdict([*flat, not any(grows)]),
        "decoding " + ", ".join(f"{name} {cells['decoding']}" for name, cells in evidence.items()),
        (
            "True of decoding, where the state is all that is kept, at a fixed width and depth; a "
            "million tokens were really decoded. Training keeps activations of every token, so it "
            "grows with N for them as for all others. And constant is not free: what such a state "
            "can recall is bounded, and wider models pay in state, linear attention with the "
            "square of a head's width."
        ),
        evidence,
    )


CLAIMS = (
    Claim(
        "The memory of inference is proportional to N^2.",
        (
            "Exponents of the bytes that compiled programs need beside the parameters, by "
            "phase and by form of attention."
        ),
        quadratic,
    ),
    Claim(
        "The memory of attention grows exponentially.",
        "Two fits of the same curves: log(bytes) by log(N), and by N.",
        exponential,
    ),
    Claim(
        "The KV cache grows quadratically.",
        (
            "Bytes of the cache after N tokens, and, computed from these, what N steps that "
            "read all filled slots once read."
        ),
        cache_reads,
    ),
    Claim(
        "Recurrent models need constant memory, whatever the length.",
        (
            "Exponents of state and of training, and the record of a million decoded tokens "
            "(docs/memory/long_decode.json)."
        ),
        constant,
    ),
)
