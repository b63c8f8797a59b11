"""scripts/check_mixer.py, and mixers outside the repository in every program: one name, no fork."""

import re
import sys
from pathlib import Path

import pytest

from seqarch import laws
from seqarch.laws.hints import HINTS
from seqarch.laws.learning import check_learning
from seqarch.mixers.gru import GRU
from seqarch.tasks.text import tokens, writer
from tests.conftest import Ended

ROOT = Path(__file__).parents[2]
BROKEN = """
import jax
import jax.numpy as jnp
from seqarch.mixers.gru import GRU

class Mistaken(GRU):
    def step(self, x, state):
        return super().step(2 * x, state)

@jax.custom_vjp
def no_gradient(x):
    return x

no_gradient.defvjp(lambda x: (x, None), lambda _, dx: (dx * jnp.nan,))

class Exploding(GRU):
    def prefill(self, x, state, starts=None, lengths=None):
        return super().prefill(no_gradient(x), state, starts, lengths)

class Identity(GRU):
    def prefill(self, x, state, starts=None, lengths=None):
        return x, state

    def step(self, x, state):
        return x, state

class Crashing(GRU):
    def step(self, x, state):
        return x @ jnp.ones((3, 3)), state
"""


@pytest.fixture(scope="module")
def top(tmp_path_factory) -> Path:
    """A directory with a user's modules and text, where the programs are started."""
    top = tmp_path_factory.mktemp("mine")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/mixer.md").read_text(), re.DOTALL)
    (top / "my_mixers.py").write_text(code)
    (top / "broken.py").write_text(BROKEN)
    (top / "torn.py").write_text("class Mixer(")
    documents = [
        (split, f"{split} {n}", b"To be, or not to be, that is it. " * 20)
        for split in tokens.SPLITS
        for n in "ab"
    ]
    writer.write(top / "text", documents, {}, replace=False)
    return top


SMALL = ("--dim=8", "--time=7", "--steps=10")


def test_every_clause_has_a_hint():
    assert [clause.name for clause in laws.clauses(GRU)] == list(HINTS)


def test_a_mixer_that_obeys_is_told_so(top, run_here):
    usual = ("--dim=8", "--time=7", "--steps=100")
    done = run_here("scripts/check_mixer.py", "my_mixers:EMA", *usual, cwd=top)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + len(HINTS) + 2 and all(
        line.startswith("holds") for line in lines[1:-1]
    )
    assert (
        "256 B after 1,024 tokens, 256 B after 65,536 tokens, at width 64; constant" in done.stdout
    )
    assert lines[-1] == f"{len(HINTS) + 2} of {len(HINTS) + 2} hold"


def test_what_may_follow_from_another_failure_says_so(top, run_here, monkeypatch):
    """A wrong step fails all that is compared with steps; the first line that fails is the one to
    mend.
    """
    monkeypatch.setattr(laws, "LAW", laws.LAW[2:5])
    done = run_here("scripts/check_mixer.py", "broken:Mistaken(hidden=4)", *SMALL, cwd=top)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILS")]
    assert done.returncode == 1 and len(failed) > 1
    assert "a scan of step is prefill: the output" in failed[0] and "Probably: " in failed[0]
    assert all("If that does not follow from what fails above: " in line for line in failed[1:])
    assert "16 B after 1,024 tokens" in done.stdout


def test_a_mixer_that_cannot_learn_has_its_verdict(top, run_here, monkeypatch):
    monkeypatch.setattr(laws, "LAW", laws.LAW[:2])
    done = run_here("scripts/check_mixer.py", "broken:Exploding", *SMALL, cwd=top)
    assert (
        done.returncode == 1
        and "FAILS  it learns: losses or gradients that are not finite" in done.stdout
    ), done.stderr
    assert done.stdout.splitlines()[-1].endswith("hold; begin with the first that fails")


def test_a_mixer_without_memory_does_not_learn(top, monkeypatch):
    monkeypatch.syspath_prepend(top)
    with pytest.raises(laws.LawBroken, match="2.59 is the best without memory"):
        check_learning("broken:Identity", steps=100)


def test_a_mixer_that_raises_is_told_where(top, run_here, monkeypatch):
    monkeypatch.setattr(laws, "LAW", laws.LAW[:3])
    usual = ("--dim=8", "--time=7", "--steps=100")  # in which its prefill learns
    done = run_here("scripts/check_mixer.py", "broken:Crashing", *usual, cwd=top)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILS")]
    number = BROKEN[: BROKEN.index("jnp.ones((3, 3))")].count("\n") + 1
    assert failed and all(
        f"TypeError in line {number} of {top / 'broken.py'}: " in line for line in failed
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "PACKAGE.MODULE:CLASS is missing"),
        (("nowhere:Mixer",), "cannot load the mixer 'nowhere:Mixer'"),
        (("torn:Mixer",), "cannot load the mixer 'torn:Mixer': "),
        (("my_mixers:EMA(heads=2)",), "unknown option of mixer my_mixers:EMA 'heads'"),
    ],
)
def test_mistakes_are_told_in_one_line(top, run_here, arguments, message):
    done = run_here("scripts/check_mixer.py", *arguments, cwd=top)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr


def test_every_program_takes_a_mixer_from_where_it_is_started(top, run_here, monkeypatch):
    def start(*program: str) -> Ended:
        """Runs a program that has not imported the mixer before."""
        monkeypatch.delitem(sys.modules, "my_mixers", raising=False)
        return run_here(*program, cwd=top)

    small = [
        "--config.steps=2",
        "--config.batch=2",
        "--config.length=16",
        "--config.model.dim=8",
        "--config.model.layers=2",
    ]
    trained = start(
        "train.py", f"--config={ROOT}/configs/lm.py", "--config.model.mixer=my_mixers:EMA",
        "--workdir=run",
        "--config.data.path=text", "--config.eval.limit=50", *small,
    )  # fmt: skip
    assert trained.returncode == 0 and "step 2/2" in trained.stdout, trained.stderr
    refused = start("eval.py", "--workdir=run", "--only=quality")
    assert refused.returncode == 2 and "give --allow_modules=my_mixers" in refused.stderr
    measured = start("eval.py", "--workdir=run", "--only=quality", "--allow_modules=my_mixers")
    assert measured.returncode == 0 and "bits/byte" in measured.stdout, measured.stderr
    allowed = "--prompt=To be", "--steps=3", "--allow_modules=my_mixers"
    written = start("scripts/generate.py", "--workdir=run", *allowed)
    assert written.returncode == 0 and written.stdout.startswith("To be"), written.stderr
