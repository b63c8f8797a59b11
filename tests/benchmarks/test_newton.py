"""Newton's method in the benchmark: its iterations, the programs of absent TPUs, and the page."""

import dataclasses

import jax
import numpy as np
import pytest

from benchmarks import bench, newton, newton_file, newton_tables, ratios, tables
from benchmarks.cases import Sizes
from benchmarks.measure import Limits
from seqarch.errors import UserError
from seqarch.flops import count_flops
from seqarch.ops.newton import Iterations
from seqarch.records import Record, Results

TINY = Sizes(dim=8, solved=(6,))


@pytest.fixture(scope="module")
def results() -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(newton, "CELLS", {"gru": newton.CELLS["gru"]})
        limits = Limits(rounds=(1, 1), seconds=0.0)
        *_, found = bench.run(["newton"], TINY, limits, say=lambda line: None)
    return found


def test_iterations_are_counted_and_times_are_held_against_the_form_in_use(results):
    ((place, counts),) = newton_tables.counted(results).items()
    assert place == ("gru", 6) and all(1 < each <= 7 for each in counts)
    found = [each for each in ratios.ratios(results) if "newton" in each.name]
    assert [each.name for each in found] == [
        f"gru, {pass_}, B1 T6: newton / stepwise, seconds" for pass_ in ("forward", "train")
    ]
    assert [each.ratio for each in newton_tables.measured(results)] == [
        each.value for each in found
    ]
    shown = {table.title for table in tables.bench_page(results).tables}
    assert {"Where Newton's method pays", "Newton's method"} <= shown


def test_a_program_of_known_iterations_has_the_values_and_its_costs_are_known(results):
    cell, most = newton.CELLS["gru"], newton_tables.counted(results)["gru", 6]
    args = cell.args(TINY, 6)
    hs, _ = newton.solved(cell, most, *args)
    np.testing.assert_allclose(hs[:, 0], cell.call("sequential", *args)[0][0], atol=1e-5)
    flops = [
        count_flops(lambda *args: newton.solved(cell, Iterations(n, 1), *args), *args)
        for n in (2, 4, 6)
    ]
    assert not any(each.uncounted_loops for each in flops)
    assert flops[1].total - flops[0].total == flops[2].total - flops[1].total > 0


def test_an_absent_tpu_has_the_forms_of_each_length_and_a_page(results, tmp_path):
    counts = newton_tables.counted(results)
    ((name, forms),) = newton.forms_on("tpu", counts, TINY.dim).items()
    assert [at["method"] for at, _ in forms] == ["pallas", "recompute", "newton"]
    fn, args = forms[-1][1]()
    assert jax.eval_shape(fn, *args)[0].shape == (6, 1, 8)

    def estimated(tokens, pallas, solved):
        at = {"cell": "gru", "tokens": tokens}
        seconds = [
            Record("forms", "estimated_s", value, at | {"method": form, "pass": "train"})
            for form, value in (("pallas", pallas), ("newton", solved))
        ]
        taken = [Record("newton", each, 5, at) for each in ("iterations", "adjoint_iterations")]
        source = dataclasses.replace(results.source, member=f"{tokens}", facts={})
        return Results(source, (*seconds, *taken))

    path = tmp_path / "records.jsonl"
    for each in (estimated(64, 0.2, 0.1), estimated(16, 0.1, 0.2), estimated(32, 0.2, 0.1)):
        newton_file.update(path, "tpu-v5e", each)
    pays, times = newton_file.newton_page(*newton_file.records.read(path)).tables
    assert [row.cells[1:] for row in pays.rows] == [("gru", "train", "32")]
    assert [row.cells[1] for row in times.rows] == [16, 32, 64]
    assert times.rows[0].cells[3] == "5 + 5" and times.rows[0].cells[-1] == "2"


def test_records_without_iterations_are_refused(results):
    with pytest.raises(UserError, match="only=newton"):
        next(newton_file.estimate(results._replace(records=()), "tpu-v5e", 1, print, 1.0))
