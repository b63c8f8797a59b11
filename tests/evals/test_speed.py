"""Speed: what is timed is what is said to be timed."""

import dataclasses
from typing import NamedTuple

import jax
import jax.monitoring
import numpy as np
import pytest

from seqarch.config import Config, ModelConfig
from seqarch.costs.clock import Timing
from seqarch.costs.programs import DECODED
from seqarch.evals import speed
from seqarch.evals.loaded_run import LoadedRun
from seqarch.tasks.text import tokens, writer
from tests.models import build


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> LoadedRun:
    directory = tmp_path_factory.mktemp("text") / "prepared"
    given = [(split, "one", b"To be, or not to be. " * 9) for split in tokens.SPLITS]
    writer.write(directory, given, {}, replace=False)
    model_config = ModelConfig("gru,attention", layers=2, dim=16, mlp=16)
    config = Config(batch=2, length=32, model=model_config)
    model = build(model_config)
    return LoadedRun(config, model, tokens.open_split(directory, "test"), say=lambda line: None)


@pytest.mark.slow
def test_speed_of_training_and_of_serving_at_every_context(run):
    found = list(speed.evaluate(run, contexts=(64, 80)))
    served = [
        (f"{phase}_{metric}", {"context": context})
        for context in (64, 80)
        for phase in ("prefill", "decode")
        for metric in ("tokens_per_s", "spread")
    ]
    trained = [(name, {}) for name in ("compile_seconds", "train_tokens_per_s", "train_spread")]
    assert [(each.metric, each.at) for each in found] == [*trained, *served]
    assert all(speed.EVALUATOR.metric(each.metric).covers(each.at) for each in found)
    assert all(np.isfinite(each.value) and each.value > 0 for each in found)


@pytest.mark.slow
@pytest.mark.parametrize("context", [64, 80])
def test_contexts_are_reached_by_a_real_prefill_and_decoding_ends_at_them(
    run, monkeypatch, context
):
    """Seen in the cache: the tokens it has taken in, before and after each run; 80 is no multiple
    of a segment.
    """
    seen = []

    def run_once(run, prepare):
        given = prepare()
        cache = lambda at: getattr(at, "states", at)[1]
        before = int(cache(given).length[0])
        after = cache(run(given))
        seen.append((before, int(after.length[0])))
        assert np.array_equal(np.sort(after.position[0]), np.arange(context))
        return 1.0

    monkeypatch.setattr(speed, "time_runs", run_once)
    assert speed._time_serving(run, context) == (1.0, 1.0)
    assert seen == [(0, context), (context - DECODED, context)]


@pytest.mark.slow
@pytest.mark.parametrize("slowest, warned", [(1.5, False), (1.6, True)])
def test_the_spread_of_runs_is_a_note_and_a_wide_one_is_told(run, monkeypatch, slowest, warned):
    told = []
    noisy = dataclasses.replace(run, say=told.append)
    monkeypatch.setattr(speed, "time_runs", lambda *given: Timing(1.0, 0.5, slowest))
    found = [each for each in speed.evaluate(noisy, contexts=()) if each.n]
    note = f"runs took 0.5 s to {slowest} s"
    assert [(each.metric, each.value, each.note) for each in found] == [
        ("train_tokens_per_s", 64.0, note),
        ("train_spread", (1 / 0.5 - 1 / slowest) / 2, ""),
    ]
    busy = [line for line in told if "busy" in line]
    assert busy == [f"the machine is busy: speed/train_tokens_per_s: {note}"] * warned


class CountedProgram(NamedTuple):
    """Its compilation was spared by JAX's persistent cache, which says that it took 7 s when it was
    made.
    """

    name: str
    args: tuple[np.ndarray, ...]
    compilations: list

    def compile(self, *, run: bool) -> object:
        jax.monitoring.record_event_duration_secs(
            "/jax/compilation_cache/compile_time_saved_sec", 7.0
        )
        self.compilations.append(run)
        return object()


def test_programs_are_compiled_once_for_their_shapes_and_charged_what_the_cache_spared(run):
    compilations = []
    one, same, other = (CountedProgram("counted", (np.zeros(n),), compilations) for n in (3, 3, 4))
    assert run.compiled(one) is run.compiled(same) is not run.compiled(other)
    assert run.planned(one) is run.compiled(one)
    assert compilations == [True, True]
    assert 7.0 < run.compile_seconds(one) < 8.0


def test_what_was_only_planned_is_compiled_again_to_be_run(run):
    compilations = []
    program = CountedProgram("planned", (np.zeros(3),), compilations)
    assert run.planned(program) is run.planned(program) is not run.compiled(program)
    assert compilations == [False, True]


def test_what_does_not_fit_the_device_is_told_and_skipped(run):
    told = []
    small = dataclasses.replace(run, say=told.append)
    with small.skipping("a step of 1 TiB"):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 136 GiB of 16\nmore")
    assert told == ["a step of 1 TiB does not fit the device: RESOURCE_EXHAUSTED: 136 GiB of 16"]
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), small.skipping("a step"):
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")
