"""Claims about what a sequence keeps: one hidden vector, sparse caches, hybrids."""

from collections.abc import Mapping

from seqarch import records
from seqarch.config import Config
from seqarch.costs.memory import state_bytes
from seqarch.errors import UserError
from seqarch.report.comparison import significance
from seqarch.report.members import Comparison, read
from studies.claims.base import Claim, Finding, Quantity, Setup, Verdict, bytes_cell, verdict
from studies.claims.growth import ATTENTION

MILLION = 2**20
WINDOW, HYBRID, GROUPED = "attention window 1024", "hybrid", "attention grouped"
VECTORS, CROSSING = "hidden vectors a layer", "tokens of a cache as large"
CONTEXT = 16384  # tokens of the train steps that are compared
QUALITY = "bits per byte"
UNITS = {  # by what a hybrid is compared in
    f"state at {MILLION:,} tokens": "bytes",
    f"training on {CONTEXT:,} tokens, beside parameters": "bytes",
    QUALITY: "bits",
    "decoded tokens/s at 4,096": "rate",
}


def crossing(config: Config, cache: Config) -> float:
    """Returns the context at which the cache of `cache` is as large as the state of `config`.

    A cache is affine in the context, and the other state is constant.
    """
    first, second = state_bytes(cache, 1), state_bytes(cache, 2)
    return 1 + (state_bytes(config, 1) - first) / (second - first)


def one_vector(setup: Setup) -> Finding:
    evidence = {}
    for size, members in {"1M": setup.small, "8B": setup.large}.items():
        for name in ("gru", "linear_attention", "mamba"):
            evidence[f"{name}, {size}"] = _vectors(members, members[name])
    mamba, linear = evidence["mamba, 8B"], evidence["linear_attention, 8B"]
    return Finding(
        verdict(cells[VECTORS].value <= 1.1 for cells in evidence.values()),
        f"at 8B parameters Mamba keeps {mamba[VECTORS]} vectors a layer ({mamba['state']}), "
        f"linear attention {linear[VECTORS]} ({linear['state']})",
        "A GRU's state is a float32 vector of the width for each layer. Mamba keeps N = 16 "
        "numbers for each of its 2 D inner channels and the tail of its convolution, linear "
        "attention a matrix and a normaliser for each head. A cache grows past the state after "
        f"{mamba[CROSSING]} tokens (Mamba) and {linear[CROSSING]} tokens (linear attention): "
        "below, the constant state is the larger one.",
        evidence,
    )


def _vectors(members: Mapping[str, Config], config: Config) -> dict[str, Quantity]:
    """The state of one member, in bytes, in hidden vectors and in tokens of caches."""
    size, vector = state_bytes(config, 1), 4 * config.model.dim * config.model.layers
    full, grouped = members[ATTENTION["blockwise"]], members[GROUPED]
    return {
        "state": bytes_cell(size),
        VECTORS: Quantity(size / vector, "ratio"),
        CROSSING: Quantity(crossing(config, full), "rate"),
        "tokens of a grouped one": Quantity(crossing(config, grouped), "rate"),
    }


def sparse(setup: Setup) -> Finding:
    evidence = {}
    for size, members in {"1M": setup.small, "8B": setup.large}.items():
        full = state_bytes(members[ATTENTION["blockwise"]], MILLION)
        window = state_bytes(members[WINDOW], MILLION)
        for keys, kept in {"all keys": full, "window of 1,024": window}.items():
            evidence[f"{keys}, {size}"] = {
                f"state at {MILLION:,} tokens": bytes_cell(kept),
                "share": Quantity(kept / full, "percent"),
            }
    cut = state_bytes(setup.small[WINDOW], MILLION) < state_bytes(setup.small[WINDOW], 1024) * 1.01
    return Finding(
        Verdict.QUALIFIED if cut else Verdict.REFUTED,
        f"a window keeps {evidence['window of 1,024, 8B']['share']} of the cache at {MILLION:,} "
        "tokens; patterns that choose keys keep all",
        "A window forgets, so its state is bounded. Block-sparse patterns with global or "
        "random blocks (Child et al. 2019; Zaheer et al. 2020) and LSH attention (Kitaev et "
        "al. 2020) compute fewer scores, but a later query may choose any key: every key and "
        "value stays, and the cache is that of the first row. These are not built here, so "
        "that sentence is an argument and not a measurement. What they cut is the matrix and "
        "the reads.",
        evidence,
    )


def hybrids(setup: Setup) -> Finding:
    ends = {"mamba": "mamba", HYBRID: HYBRID, "attention": ATTENTION["blockwise"]}
    values = {shown: _measures(setup, shown, name) for shown, name in ends.items()}
    evidence, between = {}, []
    for measure, unit in UNITS.items():
        low, middle, high = (values[name][measure] for name in ends)
        alike = _alike(setup) if measure == QUALITY else []
        if alike:
            said = f"not told apart from {' and '.join(alike)}"
        else:
            between.append(min(low, high) <= middle <= max(low, high))
            said = "yes" if between[-1] else "no"
        cells = {name: Quantity(values[name][measure], unit) for name in ends}
        evidence[measure] = cells | {"between": said}
    return Finding(
        verdict(between),
        f"between Mamba and attention in {sum(between)} of the {len(between)} measures that "
        "tell them apart",
        "State, training and decoding lie between where layers add up: each attention layer "
        "has its cache. Quality does not have to: a hybrid may be better than both of its "
        "parts. Quality and speed are those of docs/results.md, bytes those of "
        "configs/memory.py; both have two layers, so one of each.",
        evidence,
    )


def _measures(setup: Setup, shown: str, name: str) -> dict[str, float]:
    """What a hybrid is compared in, of the member `name`, which the comparison calls `shown`."""
    config = setup.small[name]
    trained = setup.curve(config, "train", setup.targets[0], (CONTEXT,)).get(CONTEXT)
    if trained is None:
        raise UserError(f"a train step of {name} could not be measured")
    found = state_bytes(config, MILLION), trained.working, *_compared(setup, shown)
    return dict(zip(UNITS, found, strict=True))


def _compared(setup: Setup, name: str) -> tuple[float, float]:
    """Bits per byte and decoded tokens per second at 4,096 tokens, of the long comparison."""
    (member,) = (each for each in _comparison(setup).members if each.name == name)
    bits = member.value("quality", "bits_per_byte")
    return bits, member.value("speed", "decode_tokens_per_s", context=4096)


def _alike(setup: Setup) -> list[str]:
    """The ends whose quality was not told apart from the hybrid's: they share a letter with it."""
    judged = significance(_comparison(setup).models)
    letters = {name: set(found.letters.split()) for name, found in judged.items()}
    return [name for name in ("mamba", "attention") if letters[name] & letters[HYBRID]]


def _comparison(setup: Setup) -> Comparison:
    return read(setup.docs / "results" / records.NAME)


CLAIMS = (
    Claim(
        "A recurrent model compresses everything into a single hidden vector.",
        (
            "Bytes of the state, in hidden vectors of the model's width, and the context at "
            "which a KV cache is as large."
        ),
        one_vector,
    ),
    Claim(
        "Sparse attention patterns cut memory.",
        "Bytes of the state at a million tokens, with a window and without.",
        sparse,
    ),
    Claim(
        "Hybrids sit in between.",
        "State, training bytes, quality and speed of a hybrid beside those of its parts.",
        hybrids,
    ),
)
