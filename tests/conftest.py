"""Settings of every test process: the CPU, no silent broadcasting of ranks, shapes checked against
annotations, compilations kept between runs.
"""

import gc
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from absl import flags

from seqarch import shapes

# Read by JAX when it is first imported, and inherited by the programs that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax")
)
# Small programs too: a process starts hundreds, most of which another one has compiled.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Compiling is most of what tests do: leave LLVM's optimisations out. They change speed, not what is
# computed.
quick = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_parallel_codegen_split_count=1"
)
if metadata.version("jaxlib").startswith("0.10."):
    # Halves the rest; later versions end a process that has the first of these flags.
    quick += " --xla_cpu_use_fusion_emitters=false --xla_cpu_opt_preset=FAST_COMPILE"
os.environ.setdefault("XLA_FLAGS", quick)
# Programs that tests start keep their bytecode, which they would otherwise compile at every start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# What scripts/tune.py found on this machine is no business of the tests.
os.environ["SEQARCH_FORMS"] = str(Path(__file__).parents[1] / ".pytest_cache" / "no-forms.json")

shapes.install()  # in this process alone: a program that a test starts takes a second more with it

TESTS = Path(__file__).parent
# The mixers that costly tests run, one of each family; the law is tested for all of MIXERS.
CORE = ("attention", "gru", "linear_attention", "mamba")
# Files whose tests start several programs, kill them, or need gigabytes. A single such test, or one
# that takes more than some seconds, has the mark `slow` itself.
SLOW = {
    "costs/test_peak.py",
    "docs/test_notebook.py",
    "programs/test_check_mixer.py",
    "programs/test_cluster.py",
    "programs/test_compare.py",
    "programs/test_diff.py",
    "programs/test_eval.py",
    "programs/test_interruptions.py",
    "programs/test_seq2seq_runs.py",
    "programs/test_sweep.py",
    "programs/test_train.py",
    "runtime/test_workers.py",
    "studies/test_long_decode.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives tests the marks `slow` and `docs` by the files in which they stand; slow ones go first.

    So no process is left with a long test when the others have ended.
    """
    for item in items:
        file = item.path.relative_to(TESTS).as_posix()
        if file in SLOW:
            item.add_marker("slow")
        if file.startswith("docs/"):
            item.add_marker("docs")
    items.sort(key=lambda item: "slow" not in item.keywords)


def pytest_collection_finish() -> None:
    """Leaves what was imported out of garbage collections, which take a tenth of the time else."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


@pytest.fixture
def own_flags() -> Iterator[None]:
    """absl's flags are of the whole process: those of programs that tests have imported go, and
    afterwards the program's.
    """
    import grain  # noqa: F401  it defines flags when it is first imported, and they must stay

    for name in [
        name
        for name in flags.FLAGS
        if flags.FLAGS.find_module_defining_flag(name, "").startswith("scripts.")
    ]:
        delattr(flags.FLAGS, name)
    before = set(flags.FLAGS)
    yield
    drop_flags(before)


def drop_flags(before: set[str]) -> None:
    """Removes the flags that have been defined since there were those of `before`."""
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)


class Ended(NamedTuple):
    """How a program ended: its exit code, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_here(own_flags, monkeypatch, capfd) -> Callable[..., Ended]:
    """Runs a program in this process, with flags of its own: `run_here(PROGRAM, *ARGUMENTS)`.

    A process of its own would take seconds to start.
    """

    from seqarch.runtime import cli  # not before the environment is set, as it imports JAX

    def run(program: str, *arguments: str, cwd: Path = TESTS.parent) -> Ended:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(cli, "quiet", lambda: None)
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        before = set(flags.FLAGS)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(TESTS.parent / program), run_name="__main__")
        drop_flags(before)  # a second call defines them again
        return Ended(end.value.code, *capfd.readouterr())

    return run
