"""eval.py on a run: every promised number, and where it is written."""

from pathlib import Path

import jax
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seqarch import records
from seqarch.config import Config, DataConfig, EvalConfig, ModelConfig, to_dict
from seqarch.costs.program import Program
from seqarch.errors import UserError
from seqarch.evals.evaluate import choose, evaluate
from seqarch.records import Results
from seqarch.report.events import write_evaluation
from seqarch.report.single import run_text
from seqarch.tasks.text import tokens, writer
from seqarch.training.loop import train

DOCUMENTS = {
    "hamlet": b"To be, or not to be, that is the question. " * 3,
    "macbeth": b"Is this a dagger? " * 5,
}
EVALS = dict(
    quality={},
    flops={},
    memory=dict(contexts=(64, 128), compiled=(32,)),
    speed=dict(contexts=(64,)),
)
SCALARS = {
    "quality": ("bits_per_byte", "bits_per_byte_carried", "bytes", "context"),
    "memory": ("params", "params_bytes", "optimizer_bytes"),
    "flops": ("forward_per_token", "train_per_token", "train_hardware_per_token"),
    "speed": ("train_tokens_per_s", "compile_seconds"),
}
AT_CONTEXTS = {
    ("memory", "state_elements"): [32, 64, 128],
    ("memory", "state_bytes"): [32, 64, 128],
    ("memory", "state_bytes_bfloat16"): [32, 64, 128],
    ("memory", "train_bytes"): [32],
    ("memory", "prefill_bytes"): [32],
    ("memory", "decode_bytes"): [32],
    ("speed", "prefill_tokens_per_s"): [64],
    ("speed", "decode_tokens_per_s"): [64],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Two steps of the smallest hybrid."""
    top = tmp_path_factory.mktemp("run")
    texts = [(split, *document) for split in tokens.SPLITS for document in DOCUMENTS.items()]
    writer.write(top / "text", texts, {}, replace=False)
    config = Config(
        steps=2,
        batch=2,
        length=32,
        model=ModelConfig("gru,attention", layers=2, dim=16, mlp=16),
        data=DataConfig(str(top / "text")),
        eval=EvalConfig(batch=2),
        evals=EVALS,
    )
    train(config, top / "run", progress=lambda line: None)
    return top / "run"


def evaluate_quietly(run: Path, **options) -> Results:
    return evaluate(run, progress=lambda line: None, **options)


def test_evaluation_gives_every_number_and_writes_them(run):
    results = evaluate_quietly(run)
    assert records.read(run / records.NAME).results == [results]
    for name, metrics in SCALARS.items():
        for metric in metrics:
            assert results.value(name, metric) > 0, (name, metric)
    for (name, metric), contexts in AT_CONTEXTS.items():
        found = results.all(name, metric)
        assert [each.at for each in found] == [{"context": context} for context in contexts]
        assert all(each.value > 0 and each.status == "ok" for each in found)
    assert results.value("flops", "uncounted_loops") == 0
    forward, train, hardware = (results.value("flops", name) for name in SCALARS["flops"])
    assert train == 3 * forward and hardware > 2 * forward
    assert results.fact("memory", "state_dtype") == "float32+int32"
    assert results.fact("memory", "definition")


def test_scores_are_of_every_byte_by_document_and_by_position(run):
    results = evaluate_quietly(run, only=["quality"])
    sizes = [len(text) for text in DOCUMENTS.values()]
    assert results.value("quality", "bytes") == sum(sizes)
    assert results.value("quality", "carried_context") == max(sizes)
    assert results.value("quality", "document_bytes", document=list(DOCUMENTS)) == sizes
    (positions,) = results.all("quality", "position_bits_per_byte")
    assert positions.at == {"position": list(range(1, 33))} and len(positions.value) == 32
    assert results.find("quality", "bits_per_byte").n == len(DOCUMENTS)


def test_records_say_whose_they_are(run):
    source = evaluate_quietly(run, only=["flops"]).source
    assert (source.member, source.kind, source.step) == ("run", "run", 2)
    assert (source.split, source.seeds) == ("validation", {"model": 0, "data": 0})
    assert source.config["model"]["mixer"] == "gru,attention"
    assert source.provenance["versions"]["jax"] == jax.__version__
    assert source.provenance["devices"]["count"] == jax.device_count()


def test_tensorboard_has_the_numbers_beside_those_of_training(run):
    results = evaluate_quietly(run, only=["flops"])
    write_evaluation(results, run)
    events = EventAccumulator(str(run)).Reload()
    logged = events.Scalars("6_eval/flops/train_per_token")[-1]
    assert (logged.step, logged.value) == (2, results.value("flops", "train_per_token"))
    assert events.Scalars("1_train/loss")
    (text,) = events.Tensors("evaluation/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert text.step == 2
    assert [line.strip() for line in shown.splitlines()] == [
        line.strip() for line in run_text(results).splitlines()
    ]


def test_evaluators_and_split_are_chosen(run):
    results = evaluate_quietly(run, split="test", only=["flops"])
    assert results.evaluators == ("flops",) and results.source.split == "test"
    assert records.read(run / records.NAME).results == [results]
    assert results == evaluate_quietly(run, split="test", only=["flops"])


def test_fresh_records_of_other_evaluators_are_kept(run):
    known = evaluate_quietly(run, only=["flops"])
    both = evaluate_quietly(run, only=["quality"], keep=known)
    assert both.evaluators == ("flops", "quality")
    assert both.records[: len(known.records)] == known.records


@pytest.mark.parametrize(
    "evals, only, message",
    [
        ({"memroy": {}}, (), "did you mean 'memory'"),
        ({}, ("fliops",), "did you mean 'flops'"),
        ({"speed": {"context": (64,)}}, (), "did you mean 'contexts'"),
        ({"quality": {"limit": 3}}, (), "takes no options"),
        ({"speed": {"contexts": (16,)}}, (), "give contexts of at least 64 tokens"),
        ({"speed": {"contexts": 64}}, (), "give several values in parentheses"),
        ({"memory": {"compiled": (64.5,)}}, (), r"\(64.5,\): expected int"),
        ({"memory": {"compiled": (64, 0)}}, (), "give contexts of at least 1 token"),
        ({"context": {"targets": -1}}, (), "give a number of at least 0"),
    ],
)
def test_unknown_evaluators_and_options_are_refused(evals, only, message):
    with pytest.raises(UserError, match=message):
        choose(Config(evals=evals), only)


def test_what_was_measured_outlives_an_interruption(run, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seqarch.evals.memory._states", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate_quietly(run, only=["flops", "memory"])
    (kept,) = records.read(run / records.NAME).results
    assert kept.evaluators == ("flops",)


def test_what_does_not_fit_the_device_has_a_status_and_no_value(run, monkeypatch):
    def refuse(program, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 136 GiB of 16")

    monkeypatch.setattr(Program, "compile", refuse)
    results = evaluate_quietly(run, only=["memory", "speed"])
    assert results.value("memory", "params") > 0
    for name, metric in AT_CONTEXTS:
        for record in results.all(name, metric):
            fits = "state" in metric
            assert (record.status, record.value is None) == ("ok" if fits else "oom", not fits)
    assert results.find("speed", "train_tokens_per_s").status == "oom"


def test_program_prints_what_it_measured(run, run_here):
    done = run_here("eval.py", f"--workdir={run}", "--only=flops")
    assert done.returncode == 0, done.stderr
    assert "FLOPs per token" in done.stdout and f"{run / records.NAME}" in done.stdout
    (written,) = records.read(run / records.NAME).results
    assert to_dict(Config()).keys() == written.source.config.keys()
