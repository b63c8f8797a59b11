"""The report says how members were matched, and what each came to."""

import dataclasses

import pytest

from seqarch.records import Record
from seqarch.report.origin_tables import MATCHING, model_table
from seqarch.report.render import cells
from tests.report.conftest import comparison_of, member_of


def matched_by(match):
    (results,) = (member := member_of("gru")).results
    source = dataclasses.replace(
        results.source,
        config=results.source.config | {"length": 256},
        facts={MATCHING: {"match": match}} if match else {},
    )
    records = (*results.records, Record("flops", "train_per_token", 1.5e6))
    return member._replace(results=(results._replace(source=source, records=records),))


@pytest.mark.parametrize(
    "match, said",
    [
        (None, "equal parameters by the width"),
        ("params", "equal parameters by the width"),
        ("state", "equal states, by the option"),
        ("flops", "at equal FLOPs a token, by their width"),
    ],
)
def test_the_models_table_says_how_they_were_matched(match, said):
    table = model_table(comparison_of(matched_by(match)))
    assert said in table.caption
    titles = [column.title for column in table.columns]
    row = dict(zip(titles, cells(table)[0], strict=True))
    assert (row["parameters"], row["state"], row["FLOPs"]) == ("654,321", "2 KiB", "1.5 M")
