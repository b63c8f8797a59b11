"""What the figures of `bench.run` say: the ratios that are promised, with their targets, and tables
in Markdown.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from benchmarks.cases import OPS, UNSCANNED, Sizes, is_constant
from benchmarks.peers import OURS
from seqarch.mixers import MIXERS
from seqarch.ops.forms import family

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


class _Figures:
    """Figures by group, form, shape and pass; KeyError where something was not measured."""

    def __init__(self, result: dict[str, Any]):
        self.all = {(f["group"], f["form"], f["shape"], f["pass_"]): f for f in result["figures"]}
        self.sizes, self.platform = result["sizes"], result["devices"]["platform"]

    def get(self, field: str, group: str, form: str, shape: str, pass_: str) -> float:
        value = self.all[group, form, shape, pass_][field]
        if value is None:
            raise KeyError(field)
        return value

    def best(self, group: str) -> str:
        """The form that training uses here."""
        return OPS[group].forms.auto(family(self.platform))


def ratios(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Those whose parts were measured; a comparison with a form that was skipped is left out."""
    figures, found = _Figures(result), []
    for name, value, least, most in _promises(figures):
        try:
            value = value()
        except KeyError:
            continue
        met = (least is None or value >= least) and (most is None or value <= most)
        found.append(Ratio(name, value, least, most, met)._asdict())
    return found


Promise = tuple[str, Callable[[], float], float | None, float | None]


def _promises(figures: _Figures) -> Iterator[Promise]:
    yield from _op_promises(figures)
    yield from _decoding_promises(figures)
    yield from _peers(figures)
    few, many = figures.sizes["depths"]
    compiling = lambda n: figures.get("seconds", "compile", f"{n} layers", "train step", "compile")
    yield (
        f"compiling a train step: {many} layers / {few} layers",
        lambda: compiling(many) / compiling(few),
        None,
        1.3,
    )
    short, long = min(figures.sizes["prompts"]), max(figures.sizes["prompts"])
    for mixer in MIXERS:
        peak = lambda n, mixer=mixer: figures.get(
            "total", "generation", mixer, f"prompt {n}", "plan"
        )
        value = lambda peak=peak: peak(long) / peak(short)
        name = f"generating with {mixer}: peak bytes, prompt of {long} / {short}"
        yield name, value, None, 1.0 if is_constant(mixer, Sizes(**figures.sizes)) else None


def _op_promises(figures: _Figures) -> Iterator[Promise]:
    B, T = figures.sizes["shapes"][-1]
    shape, long = f"B{B} T{T}", f"B{B} T{figures.sizes['long']}"
    grow = figures.sizes["long"] / T

    def ratio(
        field: str, group: str, above: str, below: str, pass_: str = "train"
    ) -> Callable[[], float]:
        return lambda: (
            figures.get(field, group, above, shape, pass_)
            / figures.get(field, group, below, shape, pass_)
        )

    def growth(field: str, group: str) -> Callable[[], float]:
        of = lambda shape: figures.get(field, group, figures.best(group), shape, "train")
        return lambda: of(long) / of(shape) / grow

    def faster(group: str, slow: str, time: float | None, memory: float) -> Iterator[Promise]:
        fast = figures.best(group)
        name = f"{group}, train, {shape}: {slow} / {fast}"
        yield f"{name}, seconds", ratio("seconds", group, slow, fast), time, None
        yield f"{name}, temporary bytes", ratio("temporaries", group, slow, fast), memory, None

    yield from faster("selective_scan", "associative", 8.0, 20.0)
    best, exponentials = figures.best("selective_scan"), "exponentials alone"
    value = ratio("seconds", "selective_scan", best, exponentials, "forward")
    yield f"selective_scan, forward, {shape}: {best} / {exponentials}, seconds", value, None, 1.5
    layer = lambda form: figures.get("seconds", "mixers", form, shape, "train")
    scan = lambda: figures.get("seconds", "selective_scan", best, shape, "train")
    value = lambda: (layer(f"mamba, {best}") - layer(UNSCANNED)) / scan()
    yield f"selective_scan, train, {shape}: in a Mamba layer / alone, seconds", value, None, 1.5
    yield from faster("attention", "materialised", 3.0, 15.0)
    yield (
        f"attention, train: temporary bytes a token, {long} / {shape}",
        growth("temporaries", "attention"),
        None,
        1.1,
    )
    yield from faster("linear_attention", "associative", None, 10.0)
    name = f"linear_attention, train: seconds a token, {long} / {shape}"
    yield name, growth("seconds", "linear_attention"), None, RUN_NOISE
    best, flax = figures.best("gru"), "flax nnx.RNN(GRUCell)"
    yield (
        f"gru, train, {shape}: {best} / {flax}, seconds",
        ratio("seconds", "gru", best, flax),
        None,
        0.8,
    )


def _decoding_promises(figures: _Figures) -> Iterator[Promise]:
    def ratio(field: str, mixer: str, above: str, below: str) -> Callable[[], float]:
        of = lambda shape: figures.get(field, "decoding", mixer, shape, "token")
        return lambda: of(above) / of(below)

    short, long = (f"{n} of {n}" for n in figures.sizes["contexts"])
    for mixer in MIXERS:  # of those with a constant state both contexts were measured
        value = ratio("seconds", mixer, long, short)
        yield (
            f"decoding with {mixer}: seconds a token, context {long} / {short}",
            value,
            1 / RUN_NOISE,
            RUN_NOISE,
        )
    small, roomy, full = (f"{filled} of {slots}" for filled, slots in figures.sizes["caches"])
    name = "decoding with attention"
    yield (
        f"{name}: seconds a token, {roomy} / {small}",
        ratio("seconds", "attention", roomy, small),
        None,
        RUN_NOISE,
    )
    grow = figures.sizes["caches"][2][0] / figures.sizes["caches"][1][0]
    value = ratio("seconds", "attention", full, roomy)
    yield (
        f"{name}: seconds a token and filled slot, {full} / {roomy}",
        lambda value=value: value() / grow,
        None,
        RUN_NOISE,
    )
    value = ratio("temporaries", "attention", roomy, small)
    yield f"{name}: temporary bytes, {roomy} / {small}", value, None, 1.1


def _peers(figures: _Figures) -> Iterator[Promise]:
    """Ours against every peer, at every shape; nothing is promised of them."""
    for group, form, shape, pass_ in figures.all:
        family, _, name = form.partition(": ")
        if group == "peers" and name != OURS:
            of = lambda form, at=(shape, pass_): figures.get("seconds", "peers", form, *at)
            value = lambda of=of, ours=f"{family}: {OURS}", form=form: of(ours) / of(form)
            yield f"{family}, {pass_}, {shape}: {OURS} / {name}, seconds", value, None, None


def render(result: dict[str, Any]) -> str:
    """Markdown: the machine, the ratios, the figures."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    dirty = " with changes" if result["dirty"] else ""
    lines = [
        f"{result['cpu']}, {result['host']['cpus']} cores, {result['host']['system']}; device "
        f"{result['devices']['kind']}",
        f"{versions}; revision {result['revision']}{dirty}; {result['seconds']:.0f} s in all",
    ]
    if result["ratios"]:
        rows = [(r["name"], f"{r['value']:.3g}", _target(r), _verdict(r)) for r in result["ratios"]]
        lines += ["", *_table(("ratio", "measured", "target", "met"), rows)]
    return "\n".join([*lines, "", *figure_tables(result["figures"])])


def _target(ratio: dict[str, Any]) -> str:
    bounds = (("at least", ratio["least"]), ("at most", ratio["most"]))
    return ", ".join(f"{words} {bound:.3g}" for words, bound in bounds if bound is not None) or "-"


def _verdict(ratio: dict[str, Any]) -> str:
    return "-" if _target(ratio) == "-" else "yes" if ratio["met"] else "**no**"


def figure_tables(figures: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown: forward and train beside each other, then what is neither."""
    two = [f for f in figures if f["pass_"] in PASSES]
    cells = {(f["group"], f["form"], f["shape"]): {} for f in two}
    for f in two:
        cells[f["group"], f["form"], f["shape"]][f["pass_"]] = f
    if cells:
        header = (
            "group",
            "form",
            "shape",
            "forward ms",
            "train ms",
            "forward temporaries MB",
            "train temporaries MB",
        )
        milliseconds = lambda by: [_ms(by.get(p)) for p in PASSES]
        megabytes = lambda by: [_mb(by.get(p), "temporaries") for p in PASSES]
        rows = [(*key, *milliseconds(by), *megabytes(by))
                for key, by in cells.items()]  # fmt: skip
        yield from _table(header, rows)
        yield from (
            "",
            "Train is forward and backward. Temporaries are XLA's, beside arguments and outputs.",
            "",
        )
    other = [f for f in figures if f["pass_"] not in PASSES]
    if other:
        header = (
            "group",
            "form",
            "at",
            "ms a token, or of a compilation",
            "temporaries MB",
            "total MB",
        )
        rows = [
            (f["group"], f["form"], f["shape"], _ms(f), _mb(f, "temporaries"), _mb(f, "total"))
            for f in other
        ]
        yield from _table(header, rows)


def _ms(figure: dict[str, Any] | None) -> str:
    if figure is None or figure["seconds"] is None:
        return (figure or {}).get("skipped") or "-"
    return "{} ({}-{})".format(
        *(_number(figure[field] * 1e3) for field in ("seconds", "low", "high"))
    )


def _mb(figure: dict[str, Any] | None, field: str) -> str:
    return "-" if figure is None or figure[field] is None else _number(figure[field] / 1e6)


def _number(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    line = lambda row: (
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
    )
    return [
        line(header),
        "|" + "|".join("-" * (width + 2) for width in widths) + "|",
        *map(line, rows),
    ]
