"""What every probe must be: answered by its own program alone, the same rows everywhere, and splits
that share none, unless it says so.
"""

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import probes
from seqarch import tasks
from seqarch.config import Config, ModelConfig, parse
from seqarch.errors import UserError
from seqarch.tasks import TASKS, make_task
from seqarch.tasks.base import SPLITS
from seqarch.tasks.probe import EIGHTHS, Probe
from seqarch.tasks.rows import Rows, row_hashes

ROOT = Path(__file__).parents[2]
PROBES = [name for name in TASKS if issubclass(tasks.find(name), Probe)]
VARIANTS = [
    "mqar(variant=zoology)",
    "fuzzy_recall(shortest=3,vocab=32)",
    "needle(facts=4,digits=2)",
    "selective_copy(variant=mad)",
    "parity(labels=end,shortest=3)",
    "group(name=A5,labels=end)",
    "arithmetic(brackets=True)",
]
EXEMPT = [
    "memorise",
    "parity(length=8)",
    "flipflop(length=16)",
    "arithmetic(length=4)",
    "induction(length=3,vocab=3)",
    "recall(length=6)",
    "context_recall(length=8)",
    "selective_copy(copied=2)",
    "copy(length=7,vocab=6)",
]
SHORT = ["arithmetic(length=16)", "copy(length=16)"]  # many of whose rows are of too few kinds
COUNT = 200


@pytest.fixture(params=[*PROBES, *VARIANTS])
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
    for cut in (probe.length // 2, probe.length - 1):
        later = rows.tokens.copy()
        later[:, cut:] = probe.rows("test", 4, 0, COUNT).tokens[:, cut:]
        before = rows.scored[:, :cut]
        same = probe.solve(later)[:, :cut] == probe.solve(rows.tokens)[:, :cut]
        assert same[before].all()


def test_shuffled_targets_are_answered_at_chance(probe):
    """Two random targets agree as often as the squared shares of all targets say, about 1 / n."""
    rows = probe.rows("test", 3, 0, 2000)
    answers, targets = probe.solve(rows.tokens)[rows.scored], rows.targets[rows.scored]
    shares = np.unique(targets, return_counts=True)[1] / len(targets)
    shuffled = np.random.default_rng(0).permutation(targets)
    found, expected = float((answers == shuffled).mean()), float((shares**2).sum())
    assert found == pytest.approx(expected, abs=4 * np.sqrt(expected / len(targets)))
    assert expected == pytest.approx(probe.chance, rel=0.05)


@pytest.mark.parametrize("shift", [-1, 1])
def test_positions_that_are_one_off_are_not_solved(probe, shift):
    rows = probe.rows("test", 3, 0, COUNT)
    moved = Rows(rows.tokens, *(np.roll(each, shift, axis=1) for each in rows[1:]))
    assert accuracy(probe.solve(moved.tokens), moved) < 0.8  # of two answers, half are right


def test_evidence_stands_before_what_it_answers(probe):
    rows = probe.rows("test", 3, 0, COUNT)
    distances = probe.distances(rows.tokens)
    if distances is not None:
        assert distances.shape == rows.tokens.shape
        assert (distances <= np.arange(probe.length))[rows.scored].all()
        assert distances[rows.scored].min() >= 0


def test_splits_share_no_row(probe):
    if not probe.disjoint:
        pytest.skip("exempt, as the next test says")
    for split in SPLITS:
        tokens = probe.rows(split, 0, 0, COUNT).tokens
        found = row_hashes(tokens[~probe.in_every_split(tokens)]) >> np.uint64(61)
        assert 0 < len(found) and set(found.tolist()) <= set(EIGHTHS[split])
    assert sorted(eighth for each in EIGHTHS.values() for eighth in each) == list(range(8))


@pytest.mark.parametrize("task", EXEMPT)
def test_a_task_with_too_few_rows_says_that_splits_share_some(task):
    probe = probes.find_probe(task)
    assert not probe.disjoint
    rows = [probe.rows(split, 0, 0, COUNT).tokens for split in SPLITS]
    assert all(len(each) == COUNT for each in rows)
    assert (rows[0] != rows[1]).any()


@pytest.mark.parametrize("task", [*PROBES, *VARIANTS, *SHORT])
def test_no_row_is_more_common_in_held_out_rows_than_in_training(task):
    probe = probes.find_probe(task)
    tokens = {split: probe.rows(split, 0, 0, 512).tokens for split in SPLITS}
    most = {key: np.unique(row_hashes(x), return_counts=True)[1].max() for key, x in tokens.items()}
    few = {key: probe.in_every_split(rows).mean() for key, rows in tokens.items()}
    for split in ("validation", "test"):
        assert most[split] <= 3 * most["train"]
        assert few[split] == pytest.approx(few["train"], abs=0.1)


@pytest.mark.parametrize("task", SHORT)
def test_rows_of_too_few_kinds_are_in_every_split(task):
    """Of strings of one letter, and of expressions of one number."""
    probe = probes.find_probe(task)
    shortest = []
    for split in SPLITS:
        tokens = probe.rows(split, 0, 0, 2000).tokens
        few, sizes = probe.in_every_split(tokens), (tokens != probe.vocab - 1).sum(axis=1)
        assert 0 < few.sum() < len(few) and few[sizes == sizes.min()].all()
        shortest.append({tuple(row) for row in tokens[sizes == sizes.min()].tolist()})
    assert shortest[0] == shortest[1] == shortest[2]


def test_only_one_default_is_exempt():
    assert [name for name in PROBES if not probes.find_probe(name).disjoint] == ["memorise"]


def test_long_rows_are_drawn_a_few_at_a_time(monkeypatch):
    probe, counts = probes.find_probe("induction(length=4096)"), []
    draw = type(probe).draw

    def counted(self, rng, count):
        counts.append(count)
        return draw(self, rng, count)

    monkeypatch.setattr("seqarch.tasks.probe.DRAWN_TOKENS", 3 * 4096)
    monkeypatch.setattr(type(probe), "draw", counted)
    rows = probe.rows("test", 0, 0, 5)
    assert rows.tokens.shape == (5, 4096) and set(counts) <= {1, 2, 3}


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
        joined = jax.tree.map(lambda *columns: np.concatenate(columns), *parts)
        jax.tree.map(np.testing.assert_array_equal, joined, whole)
    with pytest.raises(UserError, match="does not divide among 3 processes"):
        next(probe.batches("train", seed=1, batch=8, process=0, processes=3))


@pytest.mark.slow
def test_another_process_draws_the_same_rows():
    program = "\n".join(
        f"print({name!r}, row_hashes(probes.find_probe({name!r}).rows('train', 7, 3, 4).tokens))"
        for name in PROBES + VARIANTS
    )
    program = "from configs import probes\nfrom seqarch.tasks.probe import row_hashes\n" + program
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    ours = (
        f"{name} {row_hashes(probes.find_probe(name).rows('train', 7, 3, 4).tokens)}\n"
        for name in PROBES + VARIANTS
    )
    assert done.stdout == "".join(ours)


def test_a_digest_names_the_options(probe):
    longer = dataclasses.replace(probe, length=probe.length + 8)
    assert probe.digest == dataclasses.replace(probe).digest != longer.digest


def test_a_batch_has_weight_where_it_is_scored(probe):
    rows = probe.rows("validation", 0, 0, 16)
    batch = probe.as_batch(rows)
    assert batch.starts is None and batch.tokens.dtype == batch.targets.dtype == np.int32
    assert batch.targets.max() < probe.vocab
    places, row = batch.positions, np.arange(16)[:, None]
    if places is None:
        places = np.broadcast_to(np.arange(probe.length), rows.scored.shape)
    weights, targets = np.zeros(rows.scored.shape), np.zeros(rows.scored.shape)
    weights[row, places], targets[row, places] = batch.weights, batch.targets
    np.testing.assert_array_equal(weights, rows.scored)
    np.testing.assert_array_equal((targets * weights)[rows.scored], rows.targets[rows.scored])


def test_no_row_has_more_scored_positions_than_its_task_says(probe):
    counts = probe.rows("test", 3, 0, 2000).scored.sum(axis=1)
    assert counts.max() <= probe.most_scored
    positions = probe.as_batch(probe.rows("test", 3, 0, 8)).positions
    assert (positions is None) == (2 * probe.most_scored > probe.length)
    assert positions is None or all(len(set(row)) == probe.most_scored for row in positions)


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
        ("mqar", 256, "length is 128, the task mqar has 64; give the task its options"),
        ("mqar", 257, "model.vocab is 257, the task mqar has 256; give the task its options"),
    ],
)
def test_mistakes_are_told_in_one_line(task, vocab, complaint):
    with pytest.raises(UserError) as error:
        make_task(Config(task=task, length=128, model=ModelConfig(vocab=vocab)))
    assert complaint in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        ("mqar(variant=zoology,queries=8)", "variant=zoology asks for each key once"),
        ("mqar(vocab=10000,pairs=40)", "40 pairs and 40 queries needs a length of 160 or more"),
        ("recall(length=7)", "recall needs an even length of 6 or more; length is 7"),
        ("recall(vocab=5)", "recall needs a vocab of 6 or more"),
        ("induction(length=2)", "induction needs a length of 3 or more"),
        ("induction(vocab=2)", "induction needs a vocab of 3 or more"),
        ("flipflop(length=9)", "flipflop needs an even length of 4 or more"),
        ("flipflop(ignore=1.5)", "flipflop needs an ignore in [0, 1]; ignore is 1.5"),
        ("context_recall(length=2)", "MAD's recall needs an even length of 4 or more, not 2"),
        ("context_recall(vocab=3)", "MAD's recall needs a vocab of 4 or more, not 3"),
        ("noisy_recall(vocab=16)", "MAD's recall needs a vocab of 20 or more, not 16"),
        ("noisy_recall(noise=1.0)", "noisy_recall needs a noise in [0, 1), not 1.0"),
        ("fuzzy_recall(shortest=4)", "keys of 4 to 3 tokens; give a shortest of at most"),
        ("fuzzy_recall(length=11)", "needs a length of 12 or more; length is 11"),
        ("fuzzy_recall(vocab=6)", "needs a vocab of 7 or more; vocab is 6"),
        ("needle(length=60)", "1 facts of 4 digits needs a length of 69 or more; length is 60"),
        ("needle(facts=677)", "needle has 676 names, too few for 677 facts"),
        ("needle(distance=22)", "length 256 has distances of 23 to 234; distance is 22"),
        ("needle(distance=235)", "length 256 has distances of 23 to 234; distance is 235"),
        ("memorise(length=5)", "memorise needs an even length; length is 5"),
        ("memorise(vocab=4)", "memorise needs a vocab of 5 or more"),
        ("selective_copy(copied=200)", "200 tokens needs a length of 400 or more; length is 256"),
        ("selective_copy(variant=mab)", "unknown variant of task selective_copy 'mab'"),
        ("selective_copy(vocab=3)", "selective_copy needs a vocab of 4 or more"),
        ("copy(shortest=40)", "copy of 40 letters needs a length of 81 or more; length is 64"),
        ("copy(vocab=4)", "copy needs a vocab of 5 or more"),
        ("reverse(length=3)", "reverse of 1 letters needs a length of 4 or more; length is 3"),
        ("sort(letters=1)", "sort needs 2 letters or more; letters is 1"),
        ("postfix(length=8)", "postfix needs a length of 9 or more; length is 8"),
        ("parity(labels=ends)", "unknown labels of a task of state tracking 'ends'; did you mean"),
        ("parity(shortest=3)", "shortest=3 needs labels=end"),
        ("parity(labels=end,shortest=65)", "shortest=65 needs labels=end and a length of 65"),
        ("modular_addition(modulus=1)", "modular_addition needs a modulus of 2 or more"),
        ("group(name=S6)", "unknown group 'S6'; known: A5, S3, S5, Z60"),
        ("group(name=s3)", "unknown group 's3'; did you mean 'S3'?"),
        ("arithmetic(length=5)", "arithmetic needs a length of 4 or more, an even one without"),
        ("arithmetic(modulus=1)", "arithmetic needs a modulus of 2 or more"),
    ],
)
def test_impossible_options_are_refused_in_one_line(task, complaint):
    with pytest.raises(UserError) as error:
        probes.find_probe(task)
    assert complaint in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", PROBES)
def test_every_probe_has_a_config(name):
    config = parse(probes.get_config(f"{name},gru"))
    task = make_task(config)
    assert (config.length, config.model.vocab) == (task.length, task.vocab)
    assert config.model.conv == (0 if task.ability == "state tracking" else 4)
    for length in config.evals["accuracy"]["lengths"]:
        dataclasses.replace(task, length=length)
    for size in config.evals["accuracy"]["sizes"]:
        dataclasses.replace(task, **{task.size: size})


@pytest.mark.slow
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
    with pytest.raises(UserError, match="gru is a mixer; the task comes first"):
        probes.get_config("gru,parity")
    with pytest.raises(UserError, match="text is no probe"):
        probes.get_config("text,mamba")


def test_a_probe_has_its_fields_as_options_but_for_what_the_config_decides():
    for name in PROBES:
        fields = inspect.signature(tasks.find(name)).parameters
        assert list(tasks.find(name).options()) == [
            each for each in fields if each not in ("text", "split")
        ]
        assert tasks.find(name).of_text == ("text" in fields)
        assert tasks.find(name).has_source == ("split" in fields)
