"""Estimated forms: each in each size that matters, with its goal, and what has no estimate."""

import importlib.util

import pytest

from benchmarks import estimates, forms_file
from seqarch.config import Config, ModelConfig
from seqarch.costs.spec import Failed
from seqarch.errors import UserError
from seqarch.records import Record

CONFIG = Config(batch=1, length=32, model=ModelConfig("min_gru", dim=128, dtype="bfloat16"))
GOAL = "selective scan, E2048 N16"


def at(form, name, **size):
    return {"method": form, **size, "pass": name}


@pytest.mark.parametrize("target", ["gpu-h100", "tpu-v5e:2x2", "local"])
def test_a_target_without_estimates_is_refused(target):
    with pytest.raises(UserError, match=f"--target={target} is no single TPU"):
        list(estimates.estimate(CONFIG, target, 1, [GOAL], print))


def test_a_form_that_the_compiler_refuses_has_the_reason():
    seen = set()
    found = estimates._answered(Failed("no tile"), {"method": "chunked", "chunk": 16}, seen)
    assert [each.status for each in found] == ["failed"] * 2 and not seen
    assert [each.at["pass"] for each in found] == ["forward", "train"]
    with pytest.raises(UserError, match="a mistake"):
        estimates._answered(UserError("a mistake"), {}, seen)


def test_the_page_has_the_fastest_form_of_an_op_beside_its_goal(tmp_path):
    def measured(name, *values):
        found = [Record("forms", "estimated_s", value, where) for value, where in values]
        return forms_file.results_of(name, CONFIG, found)

    path = tmp_path / "forms/records.jsonl"
    scan = measured(
        GOAL,
        *((0.09, at("chunked", "forward")), (0.4, at("chunked", "train"))),
        *((1e-3, at("pallas", "forward")), (9e-3, at("pallas", "train"))),
    )
    mixer = measured("gru", (0.1, at("pallas", "train")), (0.095, at("sequential", "train")))
    for each in (measured(GOAL), mixer, scan):  # a later estimate takes the place of an earlier one
        forms_file.update(path, "tpu-v5e", each)
    about, found = forms_file.records.read(path)
    goals, ops, mixers = forms_file.forms_page(about, found).tables
    assert goals.rows[0].cells == (GOAL, "pallas", "1", "1.1", "yes", "9", "4.5", "no")
    assert [row.cells[:2] for row in ops.rows] == [(GOAL, "chunked"), (GOAL, "pallas")]
    assert [row.cells[1:] for row in mixers.rows] == [
        ("pallas", None, "100"),
        ("sequential", None, "95"),
    ]
    assert forms_file.choices(found, "tpu") == {"gru": {"method": "pallas"}}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_a_size_that_changes_nothing_is_estimated_once():
    ((name, found),) = estimates.estimate(CONFIG, "tpu-v5e", 1, [], lambda line: None)
    places = [each.at for each in found]
    assert name == "min_gru" and len({str(place) for place in places}) == len(places)
    assert [each["chunk"] for each in places if each["method"] == "sequential"] == [64, 64]
    assert all(each.value > 0 for each in found if each.status == "ok")
