"""What the records of a benchmark say: ratios with their targets, and tables."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from benchmarks.bench import BENCH
from benchmarks.cases import OPS, UNSCANNED, Sizes, is_constant
from benchmarks.peers import OURS
from seqarch.mixers import MIXERS
from seqarch.ops.forms import family
from seqarch.records import Record, Results
from seqarch.report.pages import Page
from seqarch.report.tables import Column, Row, Table

PASSES = ("forward", "train")
# what "the same" and "linear" allow: timings of one run differ by so much on a shared machine
RUN_NOISE = 1.3


class Ratio(NamedTuple):
    """value is to be at least `least` and at most `most`, where they are given."""

    name: str
    value: float
    least: float | None
    most: float | None
    met: bool


class _Timings:
    """Values by metric and case; KeyError where something was not measured."""

    def __init__(self, results: Results):
        self.cases = list(dict.fromkeys(_case(record) for record in results.records))
        self._values = {(each.metric, *_case(each)): each.value for each in results.records}
        self.sizes = results.fact(BENCH, "sizes")
        self.platform = results.source.provenance["devices"]["platform"]

    def get(self, metric: str, group: str, form: str, shape: str, pass_: str) -> float:
        value = self._values[metric, group, form, shape, pass_]
        if value is None:
            raise KeyError(metric)
        return value

    def best(self, group: str) -> str:
        """The form that training uses here."""
        return OPS[group].forms.auto(family(self.platform))


def ratios(results: Results) -> list[Ratio]:
    """Those whose parts were measured; a comparison with a form that was skipped is left out."""
    found = []
    for name, value, least, most in _promises(_Timings(results)):
        try:
            value = value()
        except KeyError:
            continue
        met = (least is None or value >= least) and (most is None or value <= most)
        found.append(Ratio(name, value, least, most, met))
    return found


Promise = tuple[str, Callable[[], float], float | None, float | None]


def _promises(timings: _Timings) -> Iterator[Promise]:
    yield from _op_promises(timings)
    yield from _decoding_promises(timings)
    yield from _peers(timings)
    few, many = timings.sizes["depths"]
    compiling = lambda n: timings.get("seconds", "compile", f"{n} layers", "train step", "compile")
    yield (
        f"compiling a train step: {many} layers / {few} layers",
        lambda: compiling(many) / compiling(few),
        None,
        1.3,
    )
    short, long = min(timings.sizes["prompts"]), max(timings.sizes["prompts"])
    for mixer in MIXERS:
        peak = lambda n, mixer=mixer: timings.get(
            "total_bytes", "generation", mixer, f"prompt {n}", "plan"
        )
        value = lambda peak=peak: peak(long) / peak(short)
        name = f"generating with {mixer}: peak bytes, prompt of {long} / {short}"
        yield name, value, None, 1.0 if is_constant(mixer, Sizes(**timings.sizes)) else None


def _op_promises(timings: _Timings) -> Iterator[Promise]:
    B, T = timings.sizes["shapes"][-1]
    shape, long = f"B{B} T{T}", f"B{B} T{timings.sizes['long']}"
    grow = timings.sizes["long"] / T

    def ratio(
        field: str, group: str, above: str, below: str, pass_: str = "train"
    ) -> Callable[[], float]:
        return lambda: (
            timings.get(field, group, above, shape, pass_)
            / timings.get(field, group, below, shape, pass_)
        )

    def growth(field: str, group: str) -> Callable[[], float]:
        of = lambda shape: timings.get(field, group, timings.best(group), shape, "train")
        return lambda: of(long) / of(shape) / grow

    def faster(group: str, slow: str, time: float | None, memory: float) -> Iterator[Promise]:
        fast = timings.best(group)
        name = f"{group}, train, {shape}: {slow} / {fast}"
        yield f"{name}, seconds", ratio("seconds", group, slow, fast), time, None
        yield (
            f"{name}, temporary bytes",
            ratio("temporaries_bytes", group, slow, fast),
            memory,
            None,
        )

    yield from faster("selective_scan", "associative", 8.0, 20.0)
    best, exponentials = timings.best("selective_scan"), "exponentials alone"
    value = ratio("seconds", "selective_scan", best, exponentials, "forward")
    yield f"selective_scan, forward, {shape}: {best} / {exponentials}, seconds", value, None, 1.5
    layer = lambda form: timings.get("seconds", "mixers", form, shape, "train")
    scan = lambda: timings.get("seconds", "selective_scan", best, shape, "train")
    value = lambda: (layer(f"mamba, {best}") - layer(UNSCANNED)) / scan()
    yield f"selective_scan, train, {shape}: in a Mamba layer / alone, seconds", value, None, 1.5
    yield from faster("attention", "materialised", 3.0, 15.0)
    yield (
        f"attention, train: temporary bytes a token, {long} / {shape}",
        growth("temporaries_bytes", "attention"),
        None,
        1.1,
    )
    yield from faster("linear_attention", "associative", None, 10.0)
    name = f"linear_attention, train: seconds a token, {long} / {shape}"
    yield name, growth("seconds", "linear_attention"), None, RUN_NOISE
    best, flax = timings.best("gru"), "flax nnx.RNN(GRUCell)"
    yield (
        f"gru, train, {shape}: {best} / {flax}, seconds",
        ratio("seconds", "gru", best, flax),
        None,
        0.8,
    )


def _decoding_promises(timings: _Timings) -> Iterator[Promise]:
    def ratio(field: str, mixer: str, above: str, below: str) -> Callable[[], float]:
        of = lambda shape: timings.get(field, "decoding", mixer, shape, "token")
        return lambda: of(above) / of(below)

    short, long = (f"{n} of {n}" for n in timings.sizes["contexts"])
    for mixer in MIXERS:  # of those with a constant state both contexts were measured
        value = ratio("seconds", mixer, long, short)
        yield (
            f"decoding with {mixer}: seconds a token, context {long} / {short}",
            value,
            1 / RUN_NOISE,
            RUN_NOISE,
        )
    small, roomy, full = (f"{filled} of {slots}" for filled, slots in timings.sizes["caches"])
    name = "decoding with attention"
    yield (
        f"{name}: seconds a token, {roomy} / {small}",
        ratio("seconds", "attention", roomy, small),
        None,
        RUN_NOISE,
    )
    grow = timings.sizes["caches"][2][0] / timings.sizes["caches"][1][0]
    value = ratio("seconds", "attention", full, roomy)
    yield (
        f"{name}: seconds a token and filled slot, {full} / {roomy}",
        lambda value=value: value() / grow,
        None,
        RUN_NOISE,
    )
    value = ratio("temporaries_bytes", "attention", roomy, small)
    yield f"{name}: temporary bytes, {roomy} / {small}", value, None, 1.1


def _peers(timings: _Timings) -> Iterator[Promise]:
    """Ours against every peer, at every shape; nothing is promised of them."""
    for group, form, shape, pass_ in timings.cases:
        family, _, name = form.partition(": ")
        if group == "peers" and name != OURS:
            of = lambda form, at=(shape, pass_): timings.get("seconds", "peers", form, *at)
            value = lambda of=of, ours=f"{family}: {OURS}", form=form: of(ours) / of(form)
            yield f"{family}, {pass_}, {shape}: {OURS} / {name}, seconds", value, None, None


def bench_page(results: Results) -> Page:
    """The page of a benchmark: the promised ratios, then what was measured."""
    host = results.source.provenance["host"]
    devices = results.source.provenance["devices"]
    versions = ", ".join(
        f"{name} {version}" for name, version in results.source.provenance["versions"].items()
    )
    made = (
        f"{host['cpu']}, {host['cpus']} cores, {host['system']}; device {devices['kind']}; "
        f"{versions}; revision {results.source.revision}; "
        f"{results.fact(BENCH, 'seconds'):.0f} s in all."
    )
    tables = [ratio_table(ratios(results)), *measured_tables(results)]
    return Page("Benchmarks", [table for table in tables if table.rows], made=made)


def ratio_table(found: Sequence[Ratio]) -> Table:
    columns = Column("ratio"), Column("measured", "size"), Column("target"), Column("met")
    rows = [Row((each.name, f"{each.value:.3g}", _target(each), _verdict(each))) for each in found]
    caption = "Ratios of two measurements in one run, and what is promised of them."
    return Table("Ratios", caption, columns, tuple(rows))


def _target(ratio: Ratio) -> str:
    bounds = (("at least", ratio.least), ("at most", ratio.most))
    return ", ".join(f"{words} {bound:.3g}" for words, bound in bounds if bound is not None)


def _verdict(ratio: Ratio) -> str:
    return "" if not _target(ratio) else "yes" if ratio.met else "no"


def measured_tables(results: Results) -> list[Table]:
    """Forward and train beside each other, then what is neither."""
    cases = list(dict.fromkeys(_case(record) for record in results.records))
    pairs = list(dict.fromkeys(case[:3] for case in cases if case[3] in PASSES))
    columns = [Column("group"), Column("form"), Column("shape")]
    columns += [Column(f"{each} ms", "size") for each in PASSES]
    columns += [Column(f"{each} temporaries", "bytes") for each in PASSES]
    rows = []
    for case in pairs:
        times = [_milliseconds(results, (*case, each)) for each in PASSES]
        sizes = [_value(results, "temporaries_bytes", (*case, each)) for each in PASSES]
        rows.append(Row((*case, *times, *sizes)))
    caption = (
        "Median milliseconds, and in parentheses the fastest and the slowest round. Train is "
        "forward and backward. Temporaries are XLA's, beside arguments and outputs."
    )
    first = Table("Forms of ops, and mixers", caption, tuple(columns), tuple(rows))
    columns = (
        Column("group"), Column("form"), Column("at"), Column("ms", "size"),
        Column("temporaries_bytes", "bytes"), Column("total", "bytes"),
    )  # fmt: skip
    rows = [
        Row(
            (
                *case[:3],
                _milliseconds(results, case),
                _value(results, "temporaries_bytes", case),
                _value(results, "total_bytes", case),
            )
        )
        for case in cases
        if case[3] not in PASSES
    ]
    caption = "Milliseconds of a token, or of a compilation."
    return [first, Table("Decoding, compilation and generation", caption, columns, tuple(rows))]


def _case(record: Record) -> tuple[str, str, str, str]:
    return tuple(record.at[name] for name in ("group", "form", "shape", "pass"))


def _value(results: Results, metric: str, case: tuple[str, ...]) -> float | None:
    return results.value(BENCH, metric, **dict(zip(("group", "form", "shape", "pass"), case)))


def _milliseconds(results: Results, case: tuple[str, ...]) -> str | None:
    at = dict(zip(("group", "form", "shape", "pass"), case))
    record = results.find(BENCH, "seconds", **at)
    if record is None or record.value is None:
        return record and record.note
    low, high = (
        results.value(BENCH, metric, **at) for metric in ("fastest_seconds", "slowest_seconds")
    )
    return "{} ({}-{})".format(*(_number(1e3 * each) for each in (record.value, low, high)))


def _number(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"
