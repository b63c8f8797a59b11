"""An encoder-decoder through the programs: trained, cut short, measured, and generating."""

import dataclasses
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from configs import probes, seq2seq
from seqarch.config import Config, parse, to_dict
from seqarch.costs.memory import state_size
from seqarch.costs.programs import decoding_room, serving_model
from seqarch.costs.spec import ProgramSpec, key_of
from seqarch.errors import Stopped, UserError
from seqarch.evals.evaluate import evaluate
from seqarch.generate import generate
from seqarch.model import make_model
from seqarch.runs import load_run
from seqarch.sampling import Sampling
from seqarch.tasks import make_task
from seqarch.training import loop, rundir
from seqarch.training.logging import read_rows

SMALL = {"steps": 4, "batch": 4, "log_every": 2, "model.dim": 16, "model.layers": 1}
SCORES = ("step", "loss", "accuracy", "grad_norm", "validation_loss", "validation_accuracy")


def config(**changes) -> Config:
    given = seq2seq.get_config("reverse(length=16),gru")
    given.update_from_flattened_dict(SMALL | changes)
    given.checkpoint.every = given.eval.every = 2
    memory = dict(contexts=(64, 128), compiled=(64,))
    given.evals = dict(accuracy=dict(rows=32, lengths=(32,)), flops={}, memory=memory)
    return parse(given)


def quiet(line: str) -> None:
    del line


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("seq2seq") / "whole"
    loop.train(config(), run, progress=quiet)
    return run


def rows(run: Path) -> list[dict]:
    return [{name: row.get(name) for name in SCORES} for row in read_rows(run)]


def test_a_run_that_was_stopped_goes_on_bit_for_bit(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        asked = iter([0, signal.SIGTERM])
        patch.setattr(loop.StopRequests, "received", lambda self: next(asked))
        with pytest.raises(Stopped):
            loop.train(config(), tmp_path, progress=quiet)
    loop.train(config(), tmp_path, progress=quiet)
    assert rows(tmp_path) == rows(whole)


def test_a_run_is_measured(whole):
    found = evaluate(whole, progress=quiet)
    value = lambda metric, **at: found.value("memory", metric, **at)
    assert 0 <= found.value("accuracy", "accuracy") <= 1
    assert 0 <= found.value("accuracy", "length_accuracy", context=32) <= 1
    assert found.value("flops", "forward_per_token") > 0
    for phase in ("train", "prefill", "decode"):
        assert value(f"{phase}_bytes", context=64) > 0
    each = (value("state_bytes", context=128) - value("state_bytes", context=64)) / 64
    assert each == 2 * 16 * 4 + 4  # a key, a value and a position


def test_answers_of_training_are_those_of_generating(whole):
    """Sources of different lengths, one at a time and together."""
    run = load_run(whole)
    probe = make_task(run.config)
    drawn = probe.rows("test", 0, 0, 3)
    batch = probe.as_batch(drawn)
    sources = [row[row >= 0].tolist() for row in batch.source]
    options = dict(key=jax.random.key(0), sampling=Sampling(temperature=0.0))
    model, prompts = run.model, [[]] * 3
    together = generate(model, prompts, sources=sources, steps=4, **options)
    for row, source in zip(together, sources, strict=True):
        (alone,) = generate(model, [[]], sources=[source], steps=4, **options)
        np.testing.assert_array_equal(alone, row)
    written = np.concatenate([np.full((3, 1), model.boundary), np.stack(together)], axis=1)
    answers = model(written[:, :-1], source=batch.source).argmax(-1)
    np.testing.assert_array_equal(answers, np.stack(together))
    with pytest.raises(UserError, match="an encoder-decoder, with 0 sources for 3 prompts"):
        generate(model, prompts, steps=4, **options)
    plain = dataclasses.replace(run.config.model, kind="lm", encoder="")
    lm = jax.jit(lambda: make_model(plain, rngs=nnx.Rngs(0)))()
    with pytest.raises(UserError, match="is a language model, which has no encoder"):
        generate(lm, prompts, sources=sources, steps=4, **options)


def test_the_program_generates_the_target_of_a_prompt(whole, tmp_path, run_here):
    def printed(run: Path, *given: str) -> list[str]:
        done = run_here("scripts/generate.py", f"--workdir={run}", "--temperature=0", *given)
        return (done.stderr if done.returncode else done.stdout).splitlines()

    source, target, right = printed(whole, "--prompt=3 1 2")
    assert (source, right) == ("source: 3 1 2", "right:  2 1 3")
    assert target.startswith("target: ") and len(target.split()) <= 4
    source, _, right = printed(whole, "--seed=1")
    assert source.split()[1:] == right.split()[:0:-1]
    assert "has 'x'; the source is of symbols 0 to 25" in printed(whole, "--prompt=x")[-1]
    long = printed(whole, f"--prompt={'9' * 5000}")[-1]
    assert f"has '{'9' * 20}'; the source is of symbols 0 to 25" in long
    told = "warning: the source has 20 tokens; in training it had at most 8"
    for symbols, warned in ((19, True), (7, False)):
        given = f"--workdir={whole}", f"--prompt={'1 ' * symbols}"
        assert (told in run_here("scripts/generate.py", *given).stderr) == warned
    plain = to_dict(parse(probes.get_config("reverse(length=16),gru")))
    rundir.write_config(tmp_path, plain)
    assert "as a language model; give a run of the task text" in printed(tmp_path)[-1]


def test_what_a_source_costs_in_decoding():
    crossed, summarised = config(), config(**{"model.source": "summary"})

    def bytes_at(given: Config, context: int) -> int:
        return state_size(serving_model(given.model), **decoding_room(given, context)).bytes

    assert bytes_at(summarised, 64) == bytes_at(summarised, 65536)
    assert bytes_at(crossed, 65536) > 100 * bytes_at(crossed, 64)
    key = lambda given, context: key_of(ProgramSpec(given, "decode", 1, context, "tpu-v5e"))
    assert key(crossed, 64) != key(crossed, 128)
    assert key(summarised, 64) == key(summarised, 128)
