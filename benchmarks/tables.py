"""The page of a benchmark: ratios with their targets, and tables of what was measured."""

from collections.abc import Sequence

from benchmarks.cases import PASSES
from benchmarks.measure import BENCH
from benchmarks.newton_tables import measured, newton_tables
from benchmarks.ratios import Ratio, ratios
from benchmarks.timings import PLACE, cases_of
from seqarch.records import Results
from seqarch.report.formats import show
from seqarch.report.pages import Page
from seqarch.report.tables import Column, Row, Table


def bench_page(results: Results) -> Page:
    """Returns the page of a benchmark: the promised ratios, then all that was measured."""
    host = results.source.provenance["host"]
    devices = results.source.provenance["devices"]
    versions = ", ".join(
        f"{name} {version}" for name, version in results.source.provenance["versions"].items()
    )
    made = (
        f"{host['cpu']}, {host['cpus']} cores, {host['system']}; device {devices['kind']}; "
        f"{versions}; revision {show(results.source.revision, 'revision')}; "
        f"{results.fact(BENCH, 'seconds'):.0f} s in all."
    )
    solved = newton_tables(measured(results), f"{host['cpus']} cores, {devices['kind']}")
    tables = [ratio_table(ratios(results)), *solved, *measured_tables(results)]
    return Page("Benchmarks", [table for table in tables if table.rows], made=made)


def ratio_table(found: Sequence[Ratio]) -> Table:
    """Returns the table of ratios, each with its target and whether it is met."""
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
    """Returns a table of forward and train passes, and a table of all other cases."""
    cases = cases_of(results)
    passes = dict.fromkeys(case[:3] for case in cases if case[3] in PASSES)
    others = [case for case in cases if case[3] not in PASSES]
    return [_pass_table(results, list(passes)), _other_table(results, others)]


def _pass_table(results: Results, cases: Sequence[tuple[str, str, str]]) -> Table:
    columns = [Column("group"), Column("form"), Column("shape")]
    columns += [Column(f"{each} ms", "size") for each in PASSES]
    columns += [Column(f"{each} temporaries", "bytes") for each in PASSES]
    rows = []
    for case in cases:
        times = [_milliseconds(results, (*case, each)) for each in PASSES]
        sizes = [_value(results, "temporaries_bytes", (*case, each)) for each in PASSES]
        rows.append(Row((*case, *times, *sizes)))
    caption = (
        "Median milliseconds, and in parentheses the fastest and the slowest round. Train is "
        "forward and backward. Temporaries are XLA's, beside arguments and outputs."
    )
    return Table("Forms of ops, and mixers", caption, tuple(columns), tuple(rows))


def _other_table(results: Results, cases: Sequence[tuple[str, str, str, str]]) -> Table:
    columns = (
        Column("group"),
        Column("form"),
        Column("at"),
        Column("ms", "size"),
        Column("temporaries", "bytes"),
        Column("total", "bytes"),
    )
    rows = []
    for case in cases:
        sizes = [_value(results, each, case) for each in ("temporaries_bytes", "total_bytes")]
        rows.append(Row((*case[:3], _milliseconds(results, case), *sizes)))
    caption = "Milliseconds of a token, of a compilation, or of a run of a sweep."
    return Table("Decoding, compilation, generation and sweeps", caption, columns, tuple(rows))


def _value(results: Results, metric: str, case: tuple[str, ...]) -> float | None:
    return results.value(BENCH, metric, **dict(zip(PLACE, case)))


def _milliseconds(results: Results, case: tuple[str, ...]) -> str | None:
    at = dict(zip(PLACE, case))
    record = results.find(BENCH, "seconds", **at)
    if record is None or record.value is None:
        return record and record.note
    low, high = (
        results.value(BENCH, metric, **at) for metric in ("fastest_seconds", "slowest_seconds")
    )
    return "{} ({}-{})".format(*(_number(1e3 * each) for each in (record.value, low, high)))


def _number(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"
