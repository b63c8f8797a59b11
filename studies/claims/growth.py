"""Claims about how memory grows with the context: N^2, exponential, constant."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from seqarch import records
from seqarch.config import Config
from seqarch.costs.memory import Measurement, state_bytes
from seqarch.errors import UserError
from seqarch.report.formats import format_bytes
from seqarch.stats.fits import Exponent, exponent, growth
from studies import long_decode
from studies.claims.base import (
    Claim,
    Finding,
    Quantity,
    Setup,
    bytes_cell,
    exponent_cell,
    near,
    verdict,
)

ATTENTION = {"materialised": "attention materialised", "blockwise": "attention multi-head"}
CONSTANT = ("gru", "linear_attention", "mamba")
PARTS = 64  # equal parts of N at whose ends the cache is measured

Part = Callable[[Measurement], int]


def working(measured: Measurement) -> int:
    return measured.working


def state(measured: Measurement) -> int:
    return measured.state


def working_and_state(measured: Measurement) -> int:
    return measured.working + measured.state


def fitted(curve: Mapping[int, Measurement], part: Part) -> Exponent | None:
    """Returns the exponent of one part of the bytes along a curve."""
    return exponent(list(curve), [part(each) for each in curve.values()])


def prompts_at_once(setup: Setup, config: Config, target: str) -> dict[int, Measurement]:
    """Measures prefill of whole prompts, each as one segment."""
    found = {}
    for n in setup.lengths:
        found |= setup.curve(dataclasses.replace(config, length=n), "prefill", target, (n,))
    return found


def quadratic(setup: Setup) -> Finding:
    local, found = setup.targets[0], {}
    for form, name in ATTENTION.items():
        config = setup.small[name]
        at_once = prompts_at_once(setup, config, local)
        found[f"{form}, training"] = fitted(setup.curve(config, "train", local), working)
        found[f"{form}, a prompt read at once"] = fitted(at_once, working)
        found[f"{form}, a prompt read in segments"] = fitted(
            setup.curve(config, "prefill", local), working_and_state
        )
        found[f"{form}, decoding (the cache)"] = fitted(setup.curve(config, "decode", local), state)
    squares = [f"'{name}'" for name, fit in found.items() if near(fit, 2)]
    serving = [near(fit, 2) for name, fit in found.items() if "training" not in name]
    cells = {name: exponent_cell(fit) for name, fit in found.items()}
    return Finding(
        verdict(serving),
        f"exponent {cells['materialised, decoding (the cache)']} in decoding, "
        f"{cells['blockwise, a prompt read at once']} in prefill, "
        f"{cells['materialised, a prompt read at once']} where prefill builds the matrix",
        f"Of these eight, {' and '.join(squares) or 'none'} grow with N^2: those that build the "
        "matrix of scores. What is left is a cache with a slot a token. Time is another matter: "
        "the products of a prompt grow with N^2 in any form.",
        {name: {"exponent": cell} for name, cell in cells.items()},
    )


def exponential(setup: Setup) -> Finding:
    local, evidence, better = setup.targets[0], {}, []
    for form, name in ATTENTION.items():
        for phase, part in {"train": working, "decode": state}.items():
            curve = setup.curve(setup.small[name], phase, local)
            if len(curve) < 3:
                raise UserError(
                    "too few lengths could be measured to tell a power from an exponential; "
                    "give more --lengths"
                )
            fit = growth(list(curve), [part(each) for each in curve.values()])
            better.append(fit.exponential < fit.power)
            evidence[f"{form}, {phase}"] = {
                "factor off a power of N": Quantity(math.exp(fit.power), "ratio"),
                "factor off an exponential of N": Quantity(math.exp(fit.exponential), "ratio"),
            }
    power, exponential_ = evidence["materialised, train"].values()
    return Finding(
        verdict(better),
        "bytes of training with the matrix are a factor of "
        f"{power} off a power of N and {exponential_} off an exponential",
        "The factor is the root mean square of what a line in log(N), and one in N, leave of "
        "log(bytes). An exponential is a line in the second; every curve here is one in the "
        "first. Quadratic growth is steep, and polynomial.",
        evidence,
    )


def cache_reads(setup: Setup) -> Finding:
    config = setup.small[ATTENTION["blockwise"]]
    held = {n: state_bytes(config, n) for n in setup.lengths}
    read = {n: _read_bytes(config, n) for n in held}
    bytes_, reads = (exponent(list(each), list(each.values())) for each in (held, read))
    last, grows = max(held), [near(bytes_, 2), near(reads, 2)]
    evidence = {}
    for n in held:
        cells = {"held": bytes_cell(held[n]), "read in decoding them": bytes_cell(read[n])}
        evidence[f"{n:,} tokens"] = cells
    return Finding(
        verdict(grows),
        f"bytes held grow with N^{bytes_.b:.2f}, bytes read by N steps with N^{reads.b:.2f}",
        f"A cache of {last:,} tokens holds {format_bytes(held[last])} in this model; decoding "
        f"so many tokens reads {format_bytes(read[last])} of caches, since step n reads n "
        "slots. The quadratic is traffic, so time and energy, not memory.",
        evidence,
    )


def _read_bytes(config: Config, n: int) -> int:
    """Bytes of the cache that n steps of decoding read, as if it grew in PARTS equal parts."""
    ends = (n * part // PARTS for part in range(1, PARTS + 1))
    return sum(state_bytes(config, end) for end in ends) * n // PARTS


def constant(setup: Setup) -> Finding:
    decoded = _decoded(setup)
    evidence, flat, grows = {}, [], []
    for name in CONSTANT:
        config = setup.small[name]
        serving = fitted(setup.curve(config, "decode", setup.targets[0]), state)
        training = fitted(setup.curve(config, "train", setup.targets[0]), working)
        first, last = decoded[name][0], decoded[name][-1]
        grown = (last.resident - first.resident) / first.resident
        flat.append(near(serving, 0) and grown < 0.01)
        grows.append(near(training, 1))
        model = dataclasses.replace(config.model, dim=2 * config.model.dim)
        wider = state_bytes(dataclasses.replace(config, model=model), 1)
        over = f"resident memory over {last.tokens - first.tokens:,} decoded tokens"
        evidence[name] = {
            "decoding": exponent_cell(serving),
            "training": exponent_cell(training),
            f"growth of {over}": Quantity(grown, "percent"),
            "factor of the state at twice the width": Quantity(
                wider / state_bytes(config, 1), "ratio"
            ),
        }
    return Finding(
        verdict([*flat, not any(grows)]),
        "decoding " + ", ".join(f"{name} {cells['decoding']}" for name, cells in evidence.items()),
        "True of decoding, where the state is all that is kept, at a fixed width and depth; a "
        "million tokens were really decoded. Training keeps activations of every token, so it "
        "grows with N for them as for all others. And constant is not free: what such a state "
        "can recall is bounded, and wider models pay in state, linear attention with the "
        "square of a head's width.",
        evidence,
    )


def _decoded(setup: Setup) -> dict[str, Sequence[long_decode.Point]]:
    """The points of the long decoding, by mixer; raises UserError where one has none."""
    path = setup.docs / "decoding" / records.NAME
    decoded = long_decode.read(path)
    if absent := [name for name in CONSTANT if not decoded.get(name)]:
        raise UserError(f"{path} has no {', '.join(absent)}; run scripts/long_decode.py")
    return decoded


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
            "(docs/decoding/records.jsonl)."
        ),
        constant,
    ),
)
