"""Every budget of configs/compare.py is a comparison that can start."""

import pytest

from configs import compare, probes
from seqarch.compare import comparison, spec
from seqarch.compare.probing import probe_studies
from seqarch.config import parse
from seqarch.tasks.text import writer
from tests.grids import slow_but

SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize("budget", slow_but(("tour", "long", "seq2seq"), sorted(compare.BUDGETS)))
def test_a_budget_can_start(budget, tmp_path):
    documents = [(split, split, b"To be, or not to be. " * 4000) for split in SPLITS]
    writer.write(tmp_path / "text", documents, {"name": "to be"}, replace=False)
    config = compare.get_config(budget)
    config.data.path = str(tmp_path / "text")
    given = spec.read(config.to_dict())
    members = comparison.studies(given, tmp_path)
    probing = probe_studies(given, tmp_path, lambda each: parse(probes.get_config(each)))
    assert len(members) == len(given.members) * max(1, len(given.sizes))
    assert len({study.name for study in (*members, *probing)}) == len(members) + len(probing) > 0
