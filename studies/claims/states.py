"""Claims about what a sequence keeps: one hidden vector, sparse caches, hybrids."""

from seqarch import records
from seqarch.config import Config
from seqarch.costs.memory import state_bytes
from seqarch.errors import UserError
from seqarch.report.comparison import significance
from seqarch.report.formats import format_bytes
from seqarch.report.members import Comparison, read
from studies.claims.base import Claim, Finding, Means, Verdict, verdict
from studies.claims.growth import ATTENTION

MILLION = 2**20
WINDOW, HYBRID, GROUPED = "attention window 1024", "hybrid", "attention grouped"


def crossing(config: Config, cache: Config) -> float:
    """The context at which the state of `cache` is as large as the constant one of `config`; a
    cache is affine in it.
    """
    first, second = state_bytes(cache, 1), state_bytes(cache, 2)
    return 1 + (state_bytes(config, 1) - first) / (second - first)


def one_vector(means: Means) -> Finding:
    evidence, single = {}, {}
    for size, members in {"1M": means.small, "8B": means.large}.items():
        for name in ("gru", "linear_attention", "mamba"):
            config = members[name]
            vector = 4 * config.model.dim * config.model.layers
            ratio = state_bytes(config, 1) / vector
            single[size, name] = ratio <= 1.1
            evidence[f"{name}, {size}"] = {
                "state": format_bytes(state_bytes(config, 1)),
                "hidden vectors a layer": f"{ratio:.1f}",
                "as large as the cache of": (
                    f"{crossing(config, members[ATTENTION['blockwise']]):,.0f} tokens"
                ),
                "of a grouped one": f"{crossing(config, members[GROUPED]):,.0f} tokens",
            }
    mamba, linear = evidence["mamba, 8B"], evidence["linear_attention, 8B"]
    return Finding(
        verdict(single.values()),
        f"at 8B parameters Mamba keeps {mamba['hidden vectors a layer']} vectors a layer "
        f"({mamba['state']}), linear "
        f"attention {linear['hidden vectors a layer']} ({linear['state']})",
        "A GRU's state is a float32 vector of the width for each layer. Mamba keeps N = 16 "
        "numbers for each of its 2 D "
        "inner channels and the tail of its convolution, linear attention a matrix and a "
        "normaliser for each head. A cache "
        f"grows past the state after {mamba['as large as the cache of']} (Mamba) and "
        f"{linear['as large as the cache of']} "
        "(linear attention): below, the constant state is the larger one.",
        evidence,
    )


def sparse(means: Means) -> Finding:
    evidence = {}
    for size, members in {"1M": means.small, "8B": means.large}.items():
        full = state_bytes(members[ATTENTION["blockwise"]], MILLION)
        window = state_bytes(members[WINDOW], MILLION)
        for keys, bytes_ in {"all keys": full, "window of 1,024": window}.items():
            share = f"{100 * bytes_ / full:.4g} %"
            evidence[f"{keys}, {size}"] = {
                f"state at {MILLION:,} tokens": format_bytes(bytes_),
                "share": share,
            }
    cut = state_bytes(means.small[WINDOW], MILLION) < state_bytes(means.small[WINDOW], 1024) * 1.01
    return Finding(
        Verdict.QUALIFIED if cut else Verdict.REFUTED,
        f"a window keeps {evidence['window of 1,024, 8B']['share']} of the cache at {MILLION:,} "
        "tokens; patterns that "
        "choose keys keep all",
        (
            "A window forgets, so its state is bounded. Block-sparse patterns with global or "
            "random blocks (Child et al. 2019; Zaheer et al. 2020) and LSH attention (Kitaev et "
            "al. 2020) compute fewer scores, but a later query may choose any key: every key and "
            "value stays, and the cache is that of the first row. These are not built here, so "
            "that sentence is an argument and not a measurement. What they cut is the matrix and "
            "the reads."
        ),
        evidence,
    )


def hybrids(means: Means) -> Finding:
    ends = {"mamba": "mamba", HYBRID: HYBRID, "attention": ATTENTION["blockwise"]}
    local, evidence, between = means.targets[0], {}, []
    values = {}
    for shown, name in ends.items():
        config = means.small[name]
        trained = means.curve(config, "train", local, (16384,)).get(16384)
        if trained is None:
            raise UserError(f"a train step of {name} could not be measured")
        values[shown] = dict(
            zip(
                MEASURES,
                (state_bytes(config, MILLION), trained.working, *_compared(means, shown)),
                strict=True,
            )
        )
    for measure, format in MEASURES.items():
        low, middle, high = (values[name][measure] for name in ends)
        alike = _alike(means) if measure == QUALITY else []
        if not alike:
            between.append(min(low, high) <= middle <= max(low, high))
        said = (
            f"not told apart from {' and '.join(alike)}"
            if alike
            else "yes"
            if between[-1]
            else "no"
        )
        evidence[measure] = {name: format(values[name][measure]) for name in ends} | {
            "between": said
        }
    return Finding(
        verdict(between),
        (
            f"between Mamba and attention in {sum(between)} of the {len(between)} measures that "
            "tell them apart"
        ),
        (
            "State, training and decoding lie between where layers add up: each attention layer "
            "has its cache. Quality does not have to: a hybrid may be better than both of its "
            "parts. Quality and speed are those of docs/results.md, bytes those of "
            "configs/memory.py; both have two layers, so one of each."
        ),
        evidence,
    )


QUALITY = "bits per byte"
MEASURES = {
    f"state at {MILLION:,} tokens": format_bytes,
    "training on 16,384 tokens, beside parameters": format_bytes,
    QUALITY: "{:.3f}".format,
    "decoded tokens/s at 4,096": "{:,.0f}".format,
}


def _compared(means: Means, name: str) -> tuple[float, float]:
    """Bits per byte, and decoded tokens per second at 4,096 tokens, of the long comparison."""
    (member,) = (each for each in _comparison(means).members if each.name == name)
    bits = member.value("quality", "bits_per_byte")
    return bits, member.value("speed", "decode_tokens_per_s", context=4096)


def _alike(means: Means) -> list[str]:
    """The ends that share a letter with the hybrid: their difference in quality was not told from
    zero.
    """
    judged = significance(_comparison(means).models)
    letters = {name: set(found.letters.split()) for name, found in judged.items()}
    return [name for name in ("mamba", "attention") if letters[name] & letters[HYBRID]]


def _comparison(means: Means) -> Comparison:
    return read(means.docs / "results" / records.NAME)


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
