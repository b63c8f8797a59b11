"""Trackers of other services, by fakes of their packages."""

import sys
from types import ModuleType
from typing import Any

import pytest

from seqarch.errors import UserError
from seqarch.runtime.trackers import TRACKERS, Scalar, open_tracker

METRICS = {
    "loss": Scalar("train", "nats", "The loss"),
    "mfu": Scalar("speed", "", "Utilisation"),
}


class Fake(ModuleType):
    """A package with the interface of Weights & Biases, which writes down how it is called."""

    def __init__(self, name: str):
        super().__init__(name)
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def init(self, **options: Any) -> None:
        self.calls.append(("init", options))

    def log(self, values: dict[str, float], step: int) -> None:
        self.calls.append(("log", dict(values=values, step=step)))

    def finish(self, **options: Any) -> None:
        self.calls.append(("finish", options))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_numbers_go_to_one_run_of_the_service(monkeypatch, tmp_path, name):
    fake = Fake(name)
    monkeypatch.setitem(sys.modules, name, fake)
    run = tmp_path / "gru" / "seed-0"
    tracker = open_tracker(name, run, 0, METRICS)
    tracker.hparams({"steps": 2})
    tracker.texts({"run": {"revision": "abc"}}, 0)
    assert fake.calls == []
    tracker.log(dict(step=1, loss=0.5, mfu=0.25))
    tracker.close(success=False)
    (began, first), *rest = fake.calls
    assert began == "init" and first["resume"] == "allow" and first["project"] == "seqarch"
    assert first["name"] == "gru-seed-0"
    assert first["config"] == {"steps": 2, "run": {"revision": "abc"}}
    assert rest[0] == ("log", dict(values={"1_train/loss": 0.5, "2_speed/mfu": 0.25}, step=1))
    assert rest[1] == ("finish", dict(exit_code=1) if name == "wandb" else {})


def test_a_start_without_numbers_begins_no_run(monkeypatch, tmp_path):
    fake = Fake("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    open_tracker("wandb", tmp_path, 0, METRICS).close(success=True)
    assert fake.calls == []


def test_a_tracker_that_is_not_there_is_told_in_a_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="tracker 'wandb' needs the package wandb; install it"):
        open_tracker("wandb", tmp_path, 0, METRICS)
    with pytest.raises(UserError, match="unknown tracker 'trackoi'; did you mean 'trackio'"):
        open_tracker("trackoi", tmp_path, 0, METRICS)
    assert set(TRACKERS) == {"tensorboard", "trackio", "wandb"}
