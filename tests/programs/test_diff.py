"""scripts/diff.py and load_run: two runs and what is between them, on the same documents or not at
all.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import seqarch
from seqarch.compare import difference
from seqarch.config import Config, DataConfig, EvalConfig, ModelConfig, OptimConfig
from seqarch.errors import UserError
from seqarch.evals.evaluate import evaluate
from seqarch.stats.bootstrap import Interval, paired_bootstrap
from seqarch.tasks.text import tokens
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
        tokens.write(top / name, documents, {}, replace=False)
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
    lines = [line.split() for line in difference.config_lines(top / "a", top / "b")]
    assert lines == [
        ["optim.lr:", "0.003", "|", "0.1"],
        ["optim.warmup:", "50", "|", "0"],
        ["eval.limit:", "100", "|", "150"],
    ]
    assert difference.config_lines(top / "a", top / "a") == ["the configs are the same"]


def test_the_difference_is_that_of_the_same_bytes(top):
    """Of the smaller limit; what eval.json has and what is computed for b agree with one evaluation
    of each.
    """
    lines = difference.quality_lines(top / "a", top / "b", "validation")
    sizes = [min(100, len(text)) for text in TEXTS.values()]
    assert lines[0] == f"bits per byte of 3 validation documents, {sum(sizes)} bytes, over windows:"
    a, b = (difference.scores(top / run, "validation", 100) for run in "ab")
    assert a == json.loads((top / "a/eval.json").read_text()) and not (top / "b/eval.json").exists()
    each = [
        x["quality/by_document"][name] - y["quality/by_document"][name]
        for x, y in [(a, b)]
        for name in TEXTS
    ]
    found = paired_bootstrap(each, sizes)
    assert found.mean == pytest.approx(a["quality/bits_per_byte"] - b["quality/bits_per_byte"])
    assert (
        f"A - B  {found.mean:+.4f}, 95 % interval {found.low:+.4f} to {found.high:+.4f}" in lines[3]
    )
    assert [line.split() for line in lines[-3:]] == [
        [name, f"{bits:+.4f}"] for name, bits in zip(TEXTS, each, strict=True)
    ]


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
        difference.quality_lines(top / "a", top / "c", "validation")


@pytest.mark.parametrize(
    "interval, documents, words",
    [
        (Interval(-0.2, -0.3, -0.1), 50, "A is better"),
        (Interval(0.2, 0.1, 0.3), 50, "B is better"),
        (Interval(0.2, -0.1, 0.5), 50, "No difference is shown"),
        (Interval(0.2, 0.1, 0.3), 4, "Of 4 documents an interval comes out too narrow"),
        (Interval(0.2, -np.inf, np.inf), 1, "no verdict"),
    ],
)
def test_the_verdict_is_in_words(interval, documents, words):
    told = difference.verdict(interval, documents)
    assert words in told and ("too narrow" in told) == (1 < documents < 10)


def test_the_program_prints_both_and_answers_mistakes_in_one_line(top):
    run = lambda *arguments: subprocess.run(
        [sys.executable, ROOT / "scripts/diff.py", *arguments],
        cwd=top,
        capture_output=True,
        text=True,
        check=False,
    )
    done = run("a", "a")
    assert done.returncode == 0, done.stderr
    assert "the configs are the same" in done.stdout and "No difference is shown" in done.stdout
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
    assert (
        run.eval["quality/split"] == "validation" and seqarch.load_run(str(top / "b")).eval is None
    )
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
