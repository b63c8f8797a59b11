"""What is promised of mixers, of linear attention with decays, and of attention that sees less."""

import itertools
from collections.abc import Iterator
from functools import partial

from benchmarks.cases import PASSES
from benchmarks.families import DECAYS, FULL, LONGER, NO_DECAY, SEEN, scored_pairs
from benchmarks.measure import CPU
from benchmarks.timings import RUN_NOISE, Promise, Timings
from seqarch.mixers import MIXERS

PLAIN = "linear_attention"
MATRIX_STATES = (  # mixers beside PLAIN, in their default sizes
    "retnet", "gla", "mlstm", "mamba2", "deltanet", "gated_deltanet", "kda", "rwkv7", "deltaproduct"
)  # fmt: skip
MOST = {False: 2.0, True: 4.0}  # of the time without decay: of decays, and of delta rules
FASTER = {"window 256": 5.0}  # the least that full attention takes of the time of these


def family_promises(timings: Timings) -> Iterator[Promise]:
    """Yields the time of mixers / that of PLAIN, and their temporaries a token as rows grow."""
    B, T = timings.sizes["shapes"][-1]
    shape, longer = f"B{B} T{T}", f"B{B} T{LONGER * T}"

    def slower(mixer: str, pass_: str) -> float:
        of = lambda name: timings.get("seconds", "families", name, shape, pass_)
        return of(mixer) / of(PLAIN)

    def growth(mixer: str) -> float:
        of = lambda at: timings.get("temporaries_bytes", "families", mixer, at, "train")
        return of(longer) / of(shape) / LONGER

    for mixer, pass_ in itertools.product(MATRIX_STATES, PASSES):
        name = f"mixers, {pass_}, {shape}: {mixer} / {PLAIN}, seconds"
        yield Promise(name, lambda mixer=mixer, pass_=pass_: slower(mixer, pass_))
    for mixer in MIXERS:
        name = f"{mixer}, train: temporary bytes a token, {longer} / {shape}"
        yield Promise(name, lambda mixer=mixer: growth(mixer), most=1.1)


def decay_promises(timings: Timings) -> Iterator[Promise]:
    """Yields the time of linear attention with decays / that without, at equal sizes."""
    B, T = timings.sizes["shapes"][-1]
    shape = f"B{B} T{T}"

    def slower(metric: str, decay: str, pass_: str) -> float:
        of = lambda name: timings.get(metric, "decays", name, shape, pass_)
        return of(decay) / of(NO_DECAY)

    for (decay, (_, erases)), pass_ in itertools.product(DECAYS.items(), PASSES):
        if decay != NO_DECAY:
            name = f"linear attention, {pass_}, {shape}: {decay} / {NO_DECAY}"
            time, work = (partial(slower, each, decay, pass_) for each in ("seconds", CPU))
            yield Promise(f"{name}, seconds", time, most=MOST[erases])
            yield Promise(f"{name}, CPU seconds", work)


def seen_promises(timings: Timings) -> Iterator[Promise]:
    """Yields the time of full attention / that of less, and that of a pair in a block."""
    far = timings.sizes.get("far")

    def faster(metric: str, seen: str, pass_: str) -> float:
        of = lambda name: timings.get(metric, "seen", name, f"B1 T{far}", pass_)
        return of(FULL) / of(seen)

    def a_pair(metric: str, seen: str, pass_: str) -> float:
        time = 1 / faster(metric, seen, pass_)  # first, since it says whether these were measured
        return time * scored_pairs(FULL, far) / scored_pairs(seen, far)

    for seen, pass_ in itertools.product(SEEN, PASSES):
        if seen != FULL:
            name, most = f"attention, {pass_}, B1 T{far}: ", RUN_NOISE**2  # of two sizes of blocks
            time, work = (partial(a_pair, each, seen, pass_) for each in ("seconds", CPU))
            value = partial(faster, "seconds", seen, pass_)
            yield Promise(f"{name}full / {seen}, seconds", value, least=FASTER.get(seen))
            yield Promise(f"{name}{seen} / full, seconds a pair in a block", time, most=most)
            yield Promise(f"{name}{seen} / full, CPU seconds a pair in a block", work)
