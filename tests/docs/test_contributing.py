"""The examples in CONTRIBUTING.md are what the registries take."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from seqarch.devices import DEVICES, peak_flops
from seqarch.report.formats import FORMATS

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def example(section: str) -> dict:
    """Returns the names that the code of a section defines."""
    code = re.search(rf"^## {section}$.*?^```python\n(.*?)^```", TEXT, re.S | re.M)[1]
    names = {"__name__": "example"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    return names


def test_the_task_is_solved_by_its_own_program():
    probe = example("Add a task")["First"]()
    rows = probe.rows("train", seed=0, index=0, count=50)
    assert (probe.solve(rows.tokens) == rows.targets)[rows.scored].all()
    assert rows.scored.sum() == 50


def test_the_evaluator_declares_what_it_measures():
    evaluator = example("Add an evaluator")["EVALUATOR"]
    run = SimpleNamespace(model={"a": jnp.full((2, 3), 2.0), "b": jnp.zeros(2)})
    record = next(evaluator.evaluate(run))
    assert record.n == 8 and record.value == pytest.approx(math.sqrt(6 * 4 / 8))
    assert next(evaluator.evaluate(run, least=3)).value == pytest.approx(2.0)
    assert evaluator.metric(record.metric).unit in FORMATS
    assert evaluator.metric(record.metric).covers(record.at)


def test_the_device_has_a_peak(monkeypatch):
    monkeypatch.setattr("seqarch.devices.DEVICES", DEVICES.copy())
    example("Add a device")
    assert peak_flops(SimpleNamespace(device_kind="NVIDIA L40S")) == np.float64(362e12)
