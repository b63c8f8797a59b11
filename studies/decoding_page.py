"""The page of a long decoding: constant states, caches that double, and the figure of both."""

import statistics
from collections.abc import Mapping, Sequence

from seqarch.records import Results
from seqarch.report.figures import decoding_figure
from seqarch.report.notices import revisions_text
from seqarch.report.pages import Page
from seqarch.report.tables import Column, Row, Table
from studies.long_decode import DecodingPoint, points_of

MODEL = Column("model")
TOKENS = Column("tokens", "count")
CONSTANT = (
    MODEL,
    TOKENS,
    Column("state", "bytes"),
    Column("resident, first", "bytes"),
    Column("resident, last", "bytes"),
    Column("least us", "count"),
    Column("median us", "count"),
    Column("most us", "count"),
)
DOUBLED = (
    MODEL,
    TOKENS,
    Column("cache", "bytes"),
    Column("resident", "bytes"),
    Column("us a token", "count"),
)


def decoding_page(found: Sequence[Results], title: str) -> Page:
    """Returns the page of a records file: constant states, caches that double, and the figure."""
    points = {each.source.member: points_of(each) for each in found}
    figure = decoding_figure(
        {name: [point._asdict() for point in each] for name, each in points.items()}
    )
    return Page(title, tables(points), [figure], made=f"Made at revision {revisions_text(found)}.")


def tables(points: Mapping[str, Sequence[DecodingPoint]]) -> list[Table]:
    """Returns a table of constant states and one of caches, by mixer."""
    constant, doubled = [], []
    for name, each in points.items():
        if len({point.slots for point in each}) == 1:
            constant.append(Row((name, *_summary(each))))
        else:
            doubled += [Row((name, *_cache(point))) for point in each]
    return [
        Table(
            "A million tokens, decoded",
            "Constant states: bytes of the state, resident memory at the first and the last point, "
            "and microseconds a token: least, median and most of all points.",
            CONSTANT,
            tuple(constant),
        ),
        Table(
            "Caches that double",
            "A real prefill fills each cache, at whose end tokens are decoded.",
            DOUBLED,
            tuple(doubled),
        ),
    ]


def _summary(points: Sequence[DecodingPoint]) -> tuple:
    times = [point.seconds * 1e6 for point in points]
    first, last = points[0], points[-1]
    spread = min(times), statistics.median(times), max(times)
    return last.tokens, last.state, first.resident, last.resident, *map(round, spread)


def _cache(point: DecodingPoint) -> tuple:
    return point.tokens, point.state, point.resident, round(point.seconds * 1e6)
