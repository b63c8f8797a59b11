"""What every probe must be: answered by its own program alone, the same rows everywhere, and splits
that share none.
"""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs import probes
from seqarch import tasks
from seqarch.config import Config, ModelConfig, parse
from seqarch.errors import UserError
from seqarch.tasks import TASKS, make_task
from seqarch.tasks.base import EIGHTHS, SPLITS, Probe, Rows, as_batch, row_hashes

ROOT = Path(__file__).parents[2]
PROBES = [name for name in TASKS if issubclass(tasks.find(name), Probe)]
COUNT = 200


@pytest.fixture(params=PROBES)
def probe(request) -> Probe:
    return probes.find_probe(request.param)


def accuracy(answers: np.ndarray, rows: Rows) -> float:
    return float((answers == rows.targets)[rows.scored].mean())


def test_solve_gets_everything_right(probe):
    rows = probe.rows("test", 3, 0, COUNT)
    assert rows.tokens.shape == (COUNT, probe.length)
    assert 0 <= rows.tokens.min() and rows.tokens.max() < probe.vocab
    assert rows.scored.any(axis=1).all()
    assert accuracy(probe.solve(rows.tokens), rows) == 1.0


def test_solve_uses_no_later_token(probe):
    rows = probe.rows("test", 3, 0, COUNT)
    cut = probe.length // 2
    later = rows.tokens.copy()
    later[:, cut:] = probe.rows("test", 4, 0, COUNT).tokens[:, cut:]
    before = rows.scored[:, :cut]
    same = probe.solve(later)[:, :cut] == probe.solve(rows.tokens)[:, :cut]
    assert same[before].all()


def test_other_rows_answers_are_chance(probe):
    """Which is so where targets are not to be guessed without the row's tokens."""
    rows = probe.rows("test", 3, 0, 2000)
    answers = probe.solve(rows.tokens)
    scored = rows.scored
    shuffled = np.random.default_rng(0).permutation(rows.targets[scored])
    found = float((answers[scored] == shuffled).mean())
    spread = 4 * np.sqrt(probe.chance.uninformed / scored.sum())
    assert found == pytest.approx(probe.chance.uninformed, abs=spread)


@pytest.mark.parametrize("shift", [-1, 1])
def test_positions_that_are_one_off_are_not_solved(probe, shift):
    rows = probe.rows("test", 3, 0, COUNT)
    moved = Rows(rows.tokens, *(np.roll(each, shift, axis=1) for each in rows[1:]))
    assert accuracy(probe.solve(moved.tokens), moved) < 0.5


def test_splits_share_no_row(probe):
    hashes = {split: row_hashes(probe.rows(split, 0, 0, COUNT).tokens) for split in SPLITS}
    for split, found in hashes.items():
        assert set((found >> np.uint64(61)).tolist()) <= set(EIGHTHS[split])
    assert sorted(eighth for each in EIGHTHS.values() for eighth in each) == list(range(8))


def test_a_batch_is_a_function_of_seed_and_index_alone(probe):
    stream = probe.batches("train", seed=1, batch=8)
    batches = [next(stream) for _ in range(3)]
    later = next(probe.batches("train", seed=1, batch=8, start=2))
    other = next(probe.batches("train", seed=2, batch=8, start=2))
    np.testing.assert_array_equal(later.tokens, batches[2].tokens)
    assert (later.tokens != other.tokens).any() and (later.tokens != batches[1].tokens).any()


def test_processes_share_the_rows_of_one(probe):
    whole = next(probe.batches("train", seed=1, batch=8, start=5))
    for count in (2, 4):
        parts = [
            next(probe.batches("train", seed=1, batch=8, start=5, process=p, processes=count))
            for p in range(count)
        ]
        for column, of_parts in zip(whole, zip(*parts, strict=True), strict=True):
            np.testing.assert_array_equal(np.concatenate(of_parts), column)
    with pytest.raises(UserError, match="does not divide among 3 processes"):
        next(probe.batches("train", seed=1, batch=8, process=0, processes=3))


def test_another_process_draws_the_same_rows():
    program = "\n".join(
        f"print({name!r}, row_hashes(probes.find_probe({name!r}).rows('train', 7, 3, 4).tokens))"
        for name in PROBES
    )
    program = "from configs import probes\nfrom seqarch.tasks.base import row_hashes\n" + program
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ours = (
        f"{name} {row_hashes(probes.find_probe(name).rows('train', 7, 3, 4).tokens)}\n"
        for name in PROBES
    )
    assert done.stdout == "".join(ours)


def test_a_digest_names_the_options(probe):
    longer = dataclasses.replace(probe, length=probe.length + 8)
    assert probe.digest == dataclasses.replace(probe).digest != longer.digest


def test_a_batch_has_weight_where_it_is_scored(probe):
    rows = probe.rows("validation", 0, 0, 16)
    batch = as_batch(rows)
    np.testing.assert_array_equal(batch.weights, rows.scored.astype(np.float32))
    assert not batch.starts.any() and batch.tokens.dtype == batch.targets.dtype == np.int32
    assert batch.targets.max() < probe.vocab


def test_a_task_too_small_for_a_split_is_told(monkeypatch):
    probe = probes.find_probe("mqar(pairs=1,length=4,vocab=4)")
    same = Rows(np.zeros((1, 4), int), np.zeros((1, 4), int), np.ones((1, 4), bool))
    monkeypatch.setattr(
        type(probe), "draw", lambda self, rng, count: Rows(*(x.repeat(count, 0) for x in same))
    )
    empty = {"validation", "test"} - {
        name for name in SPLITS if (row_hashes(same.tokens) >> np.uint64(61))[0] in EIGHTHS[name]
    }
    for split in empty:
        with pytest.raises(UserError, match=f"too few different rows for the split {split}"):
            probe.rows(split, 0, 0, 4)


@pytest.mark.parametrize(
    ("task", "vocab", "complaint"),
    [
        ("mqra", 256, "unknown task 'mqra'; did you mean 'mqar'?"),
        ("mqar(", 256, "cannot read the task 'mqar('"),
        ("mqar(pears=2)", 256, "unknown option of task mqar 'pears'; did you mean 'pairs'?"),
        ("mqar(pairs=0)", 256, "mqar(pairs=0): give a number of at least 1"),
        ("mqar(pairs=2.5)", 256, "mqar(pairs=2.5): expected int"),
        ("text(pairs=2)", 257, "the task text takes no options"),
        ("mqar", 256, "length is 128, the task mqar has 64; set --config.length=64"),
        ("mqar", 257, "model.vocab is 257, the task mqar has 256; set --config.model.vocab=256"),
    ],
)
def test_mistakes_are_told_in_one_line(task, vocab, complaint):
    with pytest.raises(UserError) as error:
        make_task(Config(task=task, length=128, model=ModelConfig(vocab=vocab)))
    assert complaint in str(error.value) and "\n" not in str(error.value)


def test_a_config_names_a_task_without_importing_it():
    program = (
        "import sys\nfrom seqarch.config import parse\n"
        "parse(dict(task='mqar(pairs=8)', evals=dict(accuracy={})))\n"
        "print([name for name in sys.modules if name == 'seqarch.tasks.mqar'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_evaluators_depend_on_the_task():
    assert tuple(Config().evals) == ("quality", "context", "flops", "speed", "memory")
    assert tuple(Config(task="mqar").evals) == ("accuracy", "flops", "speed", "memory")


@pytest.mark.parametrize(
    ("argument", "task", "mixer", "layers"),
    [
        ("mqar,mamba", "mqar", "mamba", 2),
        ("mqar(pairs=8,length=128),mamba,attention", "mqar(pairs=8,length=128)", None, 2),
        ('mqar,"mamba,gru,attention(window=8,rope=None)"', "mqar", None, 3),
    ],
)
def test_configs_probes_take_a_task_then_a_layer_pattern(argument, task, mixer, layers):
    config = parse(probes.get_config(argument))
    assert config.task == task and mixer in (None, config.model.mixer)
    assert config.model.layers == len(list(config.model.stack)) == layers
    assert make_task(config).length == config.length
    with pytest.raises(UserError, match="text is no probe"):
        probes.get_config("text,mamba")


def test_a_probe_has_no_more_than_its_fields_as_options():
    for name in PROBES:
        assert list(tasks.find(name).options()) == list(
            inspect.signature(tasks.find(name)).parameters
        )
