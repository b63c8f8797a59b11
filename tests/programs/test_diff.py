"""scripts/diff.py and load_run: two runs and what is between them, on the same documents or not at
all.
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import seqarch
from seqarch import records
from seqarch.compare import difference
from seqarch.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig
from seqarch.errors import UserError
from seqarch.evals.evaluate import evaluate
from seqarch.report import difference as report
from seqarch.stats.bootstrap import Interval, paired_bootstrap
from seqarch.tasks.text import tokens, writer
from seqarch.training.loop import train

ROOT = Path(__file__).parents[2]
TEXTS = {
    "hamlet": b"To be, or not to be. " * 9,
    "macbeth": b"Is this a dagger? " * 6,
    "john": b"Mad world! " * 12,
}


@pytest.fixture(scope="module")
def top(tmp_path_factory) -> Path:
    """Runs a (measured), b (another learning rate and limit, not measured) and c (as a, on another
    text).
    """
    top = tmp_path_factory.mktemp("diff")
    for name, cut in (("text", 0), ("other", 1)):
        documents = [
            (split, title, text[cut:]) for split in tokens.SPLITS for title, text in TEXTS.items()
        ]
        writer.write(top / name, documents, {}, replace=False)
    a = Config(
        steps=3,
        batch=2,
        length=16,
        model=ModelConfig("gru", layers=1, dim=8, mlp=0),
        data=DataConfig(str(top / "text")),
        eval=EvalConfig(batch=2, limit=100),
    )
    b = dataclasses.replace(
        a, optim=OptimConfig(lr=0.1, warmup=0), eval=EvalConfig(batch=2, limit=150)
    )
    for name, config in dict(
        a=a, b=b, c=dataclasses.replace(a, data=DataConfig(str(top / "other")))
    ).items():
        train(config, top / name, progress=lambda line: None)
    evaluate(top / "a", only=["quality"], progress=lambda line: None)
    return top


def test_the_configs_fields_that_differ_are_told(top):
    fields = difference.config_difference(top / "a", top / "b")
    assert fields == {"optim.lr": (0.003, 0.1), "optim.warmup": (50, 0), "eval.limit": (100, 150)}
    lines = report.config_lines(fields)
    assert len(lines) == 3 and all(name in line for name, line in zip(fields, lines, strict=True))
    assert difference.config_difference(top / "a", top / "a") == {}


def test_the_difference_is_that_of_the_same_bytes(top):
    """Of the smaller limit; a's records and what is computed of b agree with one evaluation of
    each.
    """
    a, b = (difference.scores(top / run, "validation", 100) for run in "ab")
    assert records.read(top / "a" / records.NAME).results == [a]
    assert not (top / "b" / records.NAME).exists()
    found = difference.quality_difference(top / "a", top / "b", "validation")
    assert found.documents == tuple(TEXTS) and found.split == "validation"
    assert found.sizes.tolist() == [min(100, len(text)) for text in TEXTS.values()]
    ours, theirs = (
        np.array(each.value("quality", "document_bits_per_byte", document=list(TEXTS)))
        for each in (a, b)
    )
    assert found.bits.tolist() == (ours - theirs).tolist()
    assert found.interval == paired_bootstrap(found.bits, found.sizes)
    assert found.scores == tuple(each.value("quality", "bits_per_byte") for each in (a, b))
    assert found.interval.mean == pytest.approx(found.scores[0] - found.scores[1])
    assert found.windows == (16, 16)


def test_each_document_has_a_line_without_control_characters():
    found = report.QualityDifference(
        "test", ("one", "\x1b[2J"), np.ones(2), np.ones(2), (2, 1), (8, 8), Interval(1, 1, 1)
    )
    lines = report.quality_lines(found)
    assert [line.split()[0] for line in lines[-2:]] == ["one", "\\x1b[2J"]
    assert all(line.isprintable() for line in lines)


def test_other_scores_than_the_latest_are_not_taken(top, monkeypatch):
    monkeypatch.setattr(
        difference, "load_model", lambda run, allow_modules: pytest.fail("computed")
    )
    difference.scores(top / "a", "validation", 100)
    for split, limit in (("test", 100), ("validation", 0)):
        with pytest.raises(pytest.fail.Exception, match="computed"):
            difference.scores(top / "a", split, limit)


def test_scores_on_different_bytes_are_refused(top):
    with pytest.raises(UserError, match="are not the same; give runs of the same text"):
        difference.quality_difference(top / "a", top / "c", "validation")


@pytest.mark.parametrize(
    "interval, documents, better",
    [
        (Interval(-0.2, -0.3, -0.1), 50, "A"),
        (Interval(0.2, 0.1, 0.3), 50, "B"),
        (Interval(0.2, -0.1, 0.5), 50, None),
        (Interval(0.2, 0.1, 0.3), 4, "B"),
        (Interval(0.2, -np.inf, np.inf), 1, None),
    ],
)
def test_the_verdict_follows_from_the_interval(interval, documents, better):
    told = report.verdict(interval, documents)
    assert report.better(interval) == better
    assert ("better" in told) == (better is not None)
    assert ("too narrow" in told) == (1 < documents < 10)


def test_the_program_prints_both_and_answers_mistakes_in_one_line(top, run_here):
    run = lambda *arguments: run_here("scripts/diff.py", *arguments, cwd=top)
    done = run("a", "a")
    assert done.returncode == 0, done.stderr
    same = difference.quality_difference(top / "a", top / "a", "validation")
    for line in (*report.config_lines({}), *report.quality_lines(same)):
        assert line in done.stdout
    for arguments, message in (
        (("a",), "RUN_B is missing"),
        (("a", "none"), "none is no run directory"),
    ):
        failed = run(*arguments)
        assert (
            failed.returncode == 2 and failed.stderr.count("\n") == 1 and message in failed.stderr
        )


def test_a_run_is_loaded_with_all_that_it_holds(top):
    run = seqarch.load_run(top / "a")
    assert (run.config.steps, run.step, len(run.metrics)) == (3, 3, 3)
    assert run.column("loss") == ([1, 2, 3], [row["loss"] for row in run.metrics])
    assert run.column("validation_bits_per_byte")[0] == [3]
    assert run.results.source.split == "validation" and run.results.evaluators == ("quality",)
    assert seqarch.load_run(str(top / "b")).results is None
    assert jax.numpy.isfinite(run.model(run.tokenizer.encode("To be")[None])).all()
    with pytest.raises(UserError, match="is no run directory"):
        seqarch.load_run(top / "text")
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        seqarch.load_runs  # noqa: B018


def test_importing_seqarch_imports_nothing_heavy():
    code = "import seqarch, sys; assert 'jax' not in sys.modules; assert callable(seqarch.load_run)"
    code += "; from jax._src import xla_bridge; assert not xla_bridge._backends"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
