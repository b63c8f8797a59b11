"""eval.py on a run: every promised number, and where it is written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seqarch.config import Config, DataConfig, EvalConfig, ModelConfig
from seqarch.evals.evaluate import evaluate
from seqarch.tasks.text import tokens
from seqarch.training.loop import train

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ("hamlet", b"To be, or not to be, that is the question. " * 3),
    ("macbeth", b"Is this a dagger? " * 5),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Two steps of the smallest hybrid."""
    top = tmp_path_factory.mktemp("run")
    tokens.write(
        top / "text",
        [(s, name, text) for s in tokens.SPLITS for name, text in DOCUMENTS],
        {},
        replace=False,
    )
    config = Config(
        steps=2,
        batch=2,
        length=32,
        model=ModelConfig("gru,attention", layers=2, dim=16, mlp=16),
        data=DataConfig(str(top / "text")),
        eval=EvalConfig(batch=2, contexts=(64, 128), compiled_contexts=(32,), speed_contexts=(64,)),
    )
    train(config, top / "run", progress=lambda line: None)
    return top / "run"


def evaluate_quietly(run: Path, **options) -> dict:
    return evaluate(run, progress=lambda line: None, **options)


def test_evaluation_gives_every_number_and_writes_them(run):
    values = evaluate_quietly(run)
    scalars = {
        *(
            "quality/bits_per_byte",
            "quality/bits_per_byte_carried",
            "quality/bytes",
            "quality/context",
        ),
        *("memory/params", "memory/params_bytes", "memory/optimizer_bytes"),
        *(
            f"memory/state_{what}@{context}"
            for what in ("elements", "bytes")
            for context in (32, 64, 128)
        ),
        *(f"memory/{phase}_bytes@32" for phase in ("train", "prefill", "decode")),
        *("flops/forward_per_token", "flops/train_per_token"),
        *(
            "speed/train_tokens_per_s",
            "speed/prefill_tokens_per_s@64",
            "speed/decode_tokens_per_s@64",
        ),
        "speed/compile_s",
    }
    assert not {name for name in scalars if not values[name] > 0}
    assert values["quality/bytes"] == sum(len(text) for _, text in DOCUMENTS)
    assert values["quality/carried_context"] == max(len(text) for _, text in DOCUMENTS)
    assert len(values["quality/loss_by_position"]) == values["quality/context"] == 32
    assert (
        values["quality/split"] == "validation" and values["memory/state_dtype"] == "float32+int32"
    )
    assert set(values["quality/by_document"]) == {"hamlet", "macbeth"}
    assert values["flops/uncounted_loops"] == 0
    assert values["flops/train_per_token"] == 3 * values["flops/forward_per_token"]
    assert values["flops/train_hardware_per_token"] > 2 * values["flops/forward_per_token"]
    assert (
        values["run/step"] == 2
        and values["run/versions"]["jax"]
        and values["run/device"].startswith("1 x")
    )
    assert json.loads((run / "eval.json").read_text()) == values
    events = EventAccumulator(str(run)).Reload()
    (logged,) = events.Scalars("quality/bits_per_byte")
    assert (logged.step, logged.value) == (2, pytest.approx(values["quality/bits_per_byte"]))
    assert events.Scalars("train/loss")  # training's own are still there


def test_evaluators_and_split_are_chosen(run):
    values = evaluate_quietly(run, split="test", only=["flops"])
    assert {name.split("/")[0] for name in values} == {"flops", "run"}
    assert json.loads((run / "eval.json").read_text()) == values
    assert values == evaluate_quietly(run, split="test", only=["flops"])


def test_program_prints_a_table(run):
    command = [sys.executable, ROOT / "eval.py", f"--workdir={run}", "--only=flops"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "FLOPs/token, forward" in done.stdout and f"{run}/eval.json" in done.stdout
