"""Ratios of two measurements of one benchmark, and what is promised of them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from benchmarks.cases import UNSCANNED, Sizes, is_constant
from benchmarks.family_ratios import decay_promises, family_promises, seen_promises
from benchmarks.measure import CPU
from benchmarks.newton_tables import newton_promises
from benchmarks.peers import OURS
from benchmarks.sweeps import ALONE, TOGETHER, shape_of
from benchmarks.timings import RUN_NOISE, Promise, Timings
from seqarch.mixers import MIXERS
from seqarch.records import Results

PEER_TARGETS = {"attention": 1.0, "linear_attention": 0.8}  # time of ours over that of the peer


class Ratio(NamedTuple):
    """A ratio and its target; `met` says whether the value is within `least` and `most`."""

    name: str
    value: float
    least: float | None
    most: float | None
    met: bool


def ratios(results: Results) -> list[Ratio]:
    """Returns the ratios of which both parts were measured."""
    found = []
    for name, compute, least, most in _promises(Timings(results)):
        try:
            value = compute()
        except KeyError:
            continue
        met = (least is None or value >= least) and (most is None or value <= most)
        found.append(Ratio(name, value, least, most, met))
    return found


def _promises(timings: Timings) -> Iterator[Promise]:
    yield from _selective_scan(timings)
    yield from _attention(timings)
    yield from _linear_attention(timings)
    yield from _gru(timings)
    yield from decay_promises(timings)
    yield from family_promises(timings)
    yield from seen_promises(timings)
    yield from newton_promises(timings)
    yield from _decoding(timings)
    yield from _peers(timings)
    yield _compiling(timings)
    yield from _generating(timings)
    yield from _sweep(timings)


def _shape(timings: Timings) -> tuple[str, str]:
    """The shape of the targets, and the long one."""
    B, T = timings.sizes["shapes"][-1]
    return f"B{B} T{T}", f"B{B} T{timings.sizes['long']}"


def _ratio(
    timings: Timings, metric: str, group: str, above: str, below: str, pass_: str = "train"
) -> Callable[[], float]:
    """The ratio of two forms of an op at the shape of the targets."""
    shape, _ = _shape(timings)

    def compute() -> float:
        over = timings.get(metric, group, above, shape, pass_)
        return over / timings.get(metric, group, below, shape, pass_)

    return compute


def _growth(timings: Timings, metric: str, group: str) -> Callable[[], float]:
    """The ratio of a metric a token, at the long shape and at that of the targets."""
    shape, long = _shape(timings)
    longer = timings.sizes["long"] / timings.sizes["shapes"][-1][1]

    def compute() -> float:
        form = timings.best(group)
        over = timings.get(metric, group, form, long, "train")
        return over / timings.get(metric, group, form, shape, "train") / longer

    return compute


def _against(
    timings: Timings, group: str, slow: str, time: float | None, memory: float
) -> Iterator[Promise]:
    """The form in use against a slow one: at least `time` as fast, in 1 / `memory` of its bytes."""
    fast = timings.best(group)
    name = f"{group}, train, {_shape(timings)[0]}: {slow} / {fast}"
    yield Promise(f"{name}, seconds", _ratio(timings, "seconds", group, slow, fast), time)
    bytes_ = _ratio(timings, "temporaries_bytes", group, slow, fast)
    yield Promise(f"{name}, temporary bytes", bytes_, memory)


def _selective_scan(timings: Timings) -> Iterator[Promise]:
    yield from _against(timings, "selective_scan", "associative", 8.0, 20.0)
    best, exponentials = timings.best("selective_scan"), "exponentials alone"
    shape, _ = _shape(timings)
    value = _ratio(timings, "seconds", "selective_scan", best, exponentials, "forward")
    name = f"selective_scan, forward, {shape}: {best} / {exponentials}, seconds"
    yield Promise(name, value, most=1.5)

    def in_a_layer() -> float:
        with_scan = timings.get("seconds", "mixers", f"mamba, {best}", shape, "train")
        without = timings.get("seconds", "mixers", UNSCANNED, shape, "train")
        alone = timings.get("seconds", "selective_scan", best, shape, "train")
        return (with_scan - without) / alone

    name = f"selective_scan, train, {shape}: in a Mamba layer / alone, seconds"
    yield Promise(name, in_a_layer, most=1.5)


def _attention(timings: Timings) -> Iterator[Promise]:
    shape, long = _shape(timings)
    yield from _against(timings, "attention", "materialised", 3.0, 15.0)
    name = f"attention, train: temporary bytes a token, {long} / {shape}"
    yield Promise(name, _growth(timings, "temporaries_bytes", "attention"), most=1.1)


def _linear_attention(timings: Timings) -> Iterator[Promise]:
    shape, long = _shape(timings)
    yield from _against(timings, "linear_attention", "associative", None, 10.0)
    name = f"linear_attention, train: seconds a token, {long} / {shape}"
    yield Promise(name, _growth(timings, "seconds", "linear_attention"), most=RUN_NOISE)


def _gru(timings: Timings) -> Iterator[Promise]:
    best, flax = timings.best("gru"), "flax nnx.RNN(GRUCell)"
    name = f"gru, train, {_shape(timings)[0]}: {best} / {flax}, seconds"
    yield Promise(name, _ratio(timings, "seconds", "gru", best, flax), most=0.8)


def _decoding(timings: Timings) -> Iterator[Promise]:
    def ratio(metric: str, mixer: str, above: str, below: str) -> Callable[[], float]:
        of = lambda shape: timings.get(metric, "decoding", mixer, shape, "token")
        return lambda: of(above) / of(below)

    short, long = (f"{n} of {n}" for n in timings.sizes["contexts"])
    for mixer in MIXERS:  # only those with a constant state were measured at both contexts
        name = f"decoding with {mixer}: seconds a token, context {long} / {short}"
        yield Promise(name, ratio("seconds", mixer, long, short), 1 / RUN_NOISE, RUN_NOISE)
    small, roomy, full = (f"{filled} of {slots}" for filled, slots in timings.sizes["caches"])
    longer = timings.sizes["caches"][2][0] / timings.sizes["caches"][1][0]
    for mixer in MIXERS:  # only those with a cache were measured with these
        name = f"decoding with {mixer}"
        value = ratio("seconds", mixer, roomy, small)
        yield Promise(f"{name}: seconds a token, {roomy} / {small}", value, most=RUN_NOISE)
        filled = ratio("seconds", mixer, full, roomy)
        yield Promise(
            f"{name}: seconds a token and filled slot, {full} / {roomy}",
            lambda filled=filled: filled() / longer,
            most=RUN_NOISE,
        )
        value = ratio("temporaries_bytes", mixer, roomy, small)
        yield Promise(f"{name}: temporary bytes, {roomy} / {small}", value, most=1.1)


def _peers(timings: Timings) -> Iterator[Promise]:
    """Ours against every peer at every shape."""

    def ratio(metric: str, layer: str, form: str, shape: str, pass_: str) -> float:
        of = lambda form: timings.get(metric, "peers", form, shape, pass_)
        return of(f"{layer}: {OURS}") / of(form)

    for group, form, shape, pass_ in timings.cases:
        layer, _, name = form.partition(": ")
        if group == "peers" and name != OURS:
            at = layer, form, shape, pass_
            said, most = f"{layer}, {pass_}, {shape}: {OURS} / {name}", PEER_TARGETS.get(layer)
            yield Promise(f"{said}, seconds", partial(ratio, "seconds", *at), most=most)
            yield Promise(f"{said}, CPU seconds", partial(ratio, CPU, *at))


def _compiling(timings: Timings) -> Promise:
    few, many = timings.sizes["depths"]
    of = lambda n: timings.get("seconds", "compile", f"{n} layers", "train step", "compile")
    name = f"compiling a train step: {many} layers / {few} layers"
    return Promise(name, lambda: of(many) / of(few), most=1.3)


def _generating(timings: Timings) -> Iterator[Promise]:
    short, long = min(timings.sizes["prompts"]), max(timings.sizes["prompts"])
    sizes = Sizes(**timings.sizes)
    for mixer in MIXERS:
        at = ("total_bytes", "generation", mixer)
        peak = lambda n, at=at: timings.get(*at, f"prompt {n}", "plan")
        name = f"generating with {mixer}: peak bytes, prompt of {long} / {short}"
        value = lambda peak=peak: peak(long) / peak(short)
        yield Promise(name, value, most=1.0 if is_constant(mixer, sizes) else None)


def _sweep(timings: Timings) -> Iterator[Promise]:
    """Runs of a sweep together against one at a time: a step, all beside steps, and both."""
    sizes = Sizes(**timings.sizes)
    runs, (few, many) = sizes.sweep_runs, sizes.sweep_steps

    def a_run(form: str, steps: int) -> float:
        return timings.get("seconds", "sweep", form, shape_of(runs, steps), "sweep")

    def a_step(form: str) -> float:
        return (a_run(form, many) - a_run(form, few)) / (many - few)

    def start(form: str) -> float:
        return a_run(form, few) - few * a_step(form)

    name = f"a sweep of {runs} runs: {TOGETHER} / {ALONE}"
    for what, of in (
        ("seconds of a step", a_step),
        ("seconds beside its steps", start),
        (f"seconds of {many} steps", partial(a_run, steps=many)),
    ):
        yield Promise(f"{name}, {what}", lambda of=of: of(TOGETHER) / of(ALONE))
