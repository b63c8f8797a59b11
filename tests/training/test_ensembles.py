"""Runs that are trained by one program: each as it would be alone, whatever the others do."""

import signal
from pathlib import Path

import pytest

from configs import probes
from seqarch.config import Config, parse
from seqarch.errors import Diverged, Stopped
from seqarch.training import group, loop, restore
from seqarch.training.divergence import is_diverged
from seqarch.training.logging import read_rows
from seqarch.training.loop import train, train_together
from seqarch.training.sharded_step import program_key

STEPS = 50


def config(lr: float, seed: int, **fields) -> Config:
    given = probes.get_config("mqar(pairs=2,length=16,vocab=16),gru")
    small = {"steps": STEPS, "batch": 4, "log_every": 7, "model.dim": 8, "model.layers": 1}
    given.update_from_flattened_dict(small | {"optim.lr": lr, "seed.model": seed} | fields)
    given.seed.data = seed
    given.checkpoint.every, given.eval.every = 20, 25
    return parse(given)


GOOD, OTHER, WILD = config(1e-2, 1), config(3e-3, 2), config(1e30, 3)


def quiet(line: str) -> None:
    del line


def together(directory: Path, *configs: Config) -> list:
    runs = [(given, directory / str(index)) for index, given in enumerate(configs)]
    return train_together(runs, progress=quiet)


def scores(run: Path) -> list[dict]:
    names = ("step", "loss", "accuracy", "grad_norm", "learning_rate", "refused")
    kept = (*names, "validation_loss")
    return [{name: row[name] for name in kept if name in row} for row in read_rows(run)]


def arrays(run: Path, step: int = STEPS) -> dict:
    return restore.read_record(run / "checkpoints" / str(step))["arrays"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("pair")
    ends = together(directory, GOOD, OTHER)
    assert [end["step"] for end in ends] == [STEPS, STEPS]
    return directory


@pytest.mark.slow
def test_a_member_has_the_bits_that_it_has_beside_one_that_diverges(pair, tmp_path):
    end, other = together(tmp_path, GOOD, WILD)
    assert end["step"] == STEPS and isinstance(other, Diverged)
    assert scores(tmp_path / "0") == scores(pair / "0")
    assert arrays(tmp_path / "0") == arrays(pair / "0")
    last = read_rows(tmp_path / "1")[-1]
    assert last["refused"] == 10 and is_diverged(last, STEPS) and last["step"] < STEPS
    assert not {STEPS} & set(restore.steps(tmp_path / "1" / "checkpoints"))


@pytest.mark.slow
def test_a_member_is_what_it_is_alone(pair, tmp_path):
    train(GOOD, tmp_path / "alone", progress=quiet)
    ours, theirs = scores(pair / "0"), scores(tmp_path / "alone")
    assert len(ours) == len(theirs) == STEPS
    for beside, alone in zip(ours, theirs, strict=True):
        assert beside == pytest.approx(alone, abs=1e-4)
    files = [{path.name for path in run.iterdir()} for run in (pair / "0", tmp_path / "alone")]
    assert {name.partition(".tfevents")[0] for name in files[0]} == {
        name.partition(".tfevents")[0] for name in files[1]
    }


@pytest.mark.slow
def test_members_go_on_together_or_alone(pair, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        asked = iter([0, 0, 0, signal.SIGTERM])
        patch.setattr(loop.StopRequests, "received", lambda self: next(asked))
        with pytest.raises(Stopped, match="stopped at step 20"):
            together(tmp_path, GOOD, OTHER)
    ends = together(tmp_path, GOOD, OTHER)
    assert [end["step"] for end in ends] == [STEPS, STEPS]
    for index in ("0", "1"):
        assert scores(tmp_path / index) == scores(pair / index)
        assert arrays(tmp_path / index) == arrays(pair / index)


@pytest.mark.slow
def test_a_member_that_is_solved_or_stands_elsewhere_leaves_the_group(pair, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(group, "is_solved", lambda rows, config: config.seed.model == 1)
        first, second = together(tmp_path, GOOD, OTHER)
    assert (first["step"], second["step"]) == (25, STEPS)
    assert scores(tmp_path / "0") == scores(pair / "0")[:25]
    assert scores(tmp_path / "1") == scores(pair / "1")
    first, second, third = together(tmp_path, GOOD, OTHER, WILD)
    assert first["step"] == STEPS and second == read_rows(tmp_path / "1")[-1] and third is None
    assert not (tmp_path / "2" / "config.json").exists()


def test_programs_are_equal_but_for_rates_and_seeds():
    assert program_key(GOOD) == program_key(OTHER) == program_key(WILD)
    assert program_key(GOOD) != program_key(config(1e-2, 1, batch=8))
    noisy = [config(1e-2, seed, **{"model.dropout": 0.1}) for seed in (1, 2)]
    assert program_key(noisy[0]) != program_key(noisy[1])
