"""Trains and measures many runs of one config, which differ in some fields.

    python scripts/sweep.py --config=configs/sweeps/mqar.py --workdir=runs/sweeps/mqar
    python scripts/sweep.py --config=configs/lm.py:gru --workdir=runs/rates \\
      --grid="optim.lr=1e-3,3e-3 seed.model=0..4"

The runs come from the config file's get_hyper, from --grid, or from every combination of both. Each
gets a directory in WORKDIR that is named after its fields, with what train.py and eval.py write.
The same command goes on where it was cut short: what is finished is not run again. Runs that
diverge are recorded and counted. --dry_run shows the runs and the time that they take.
"""

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import flags

import _root  # noqa: F401
from seqarch.config import Config, parse
from seqarch.errors import UserError
from seqarch.runtime import cli, overrides
from seqarch.runtime.progress import print_line
from seqarch.runtime.workers import check_workers
from seqarch.sweep import hyper, local, slurm
from seqarch.sweep.grid import EXAMPLE, parse_grid
from seqarch.sweep.hyper import Sweep
from seqarch.sweep.plan import PlannedRun, check, plan
from seqarch.sweep.run import Ended, SweepState, run
from seqarch.training import rundir

CONFIG = cli.define_config()
WORKDIR = cli.define_path("workdir", None, "The sweep's directory, in which each run gets its own.")
GRID = flags.DEFINE_string("grid", "", f"Values of fields, such as '{EXAMPLE}'.")
SPLIT = flags.DEFINE_string("split", "validation", "The held-out data: validation or test.")
ONLY = flags.DEFINE_list(
    "only", [], "Evaluators to run, such as accuracy,flops; default: those of the config."
)
WORKERS = flags.DEFINE_integer(
    "workers", None, "Processes at once, each on its share of a CPU's cores; default: one a core."
)
ENSEMBLE = flags.DEFINE_integer(
    "ensemble",
    None,
    "The most runs that a process trains at once, by one program, where they differ in learning "
    f"rate, weight decay and seeds alone; default: {local.ENSEMBLE}.",
    lower_bound=1,
)
DRY = flags.DEFINE_bool("dry_run", False, "Show all runs and the time, and start nothing.")
CLUSTER = flags.DEFINE_enum("cluster", "local", ["local", "slurm"], "Where runs are trained.")
OPTIONS = flags.DEFINE_string(
    "cluster_options",
    "",
    "Options of sbatch by submitit's names, such as 'partition=gpu gpus_per_node=1 time=240'.",
)
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    here, workdir = CLUSTER.value == "local", Path(WORKDIR.value)
    check_flags(here)
    if not here:
        workdir = workdir.resolve()
        slurm.make_executor(workdir, OPTIONS.value)
    base = parse(CONFIG.value)
    runs = plan(base, read_sweep(base), workdir, SPLIT.value, ONLY.value)
    at_once = check_workers(WORKERS.value) if here else len(runs)
    check(runs, workdir, here)
    if DRY.value:
        print("\n".join(SweepState(runs, workdir, at_once, here).lines(longest=None)))
        return
    rundir.check(workdir, base)
    with local.held(workdir, print_line):
        state = SweepState(runs, workdir, at_once, here)
        print("\n".join(state.lines()), flush=True)

        def train(left: Sequence[PlannedRun], ended: Ended) -> None:
            if here:
                most = ENSEMBLE.value or local.ENSEMBLE
                local.train_here(left, state.at_once, ended, print_line, most)
            else:
                slurm.train_on_slurm(left, workdir, OPTIONS.value, ended, print_line)

        run(state, train, print_line)


def check_flags(here: bool) -> None:
    """Raises UserError for flags that do not fit together, and for several processes."""
    if jax.process_count() > 1:
        raise UserError("scripts/sweep.py is one process; start it without srun or mpirun")
    if "members" in CONFIG.value:
        raise UserError(
            "--config describes several members; scripts/sweep.py varies the fields of one run, as "
            "configs/lm.py gives it"
        )
    if here and OPTIONS.value:
        raise UserError("--cluster_options are those of --cluster=slurm; give both")
    if not here and ENSEMBLE.value:
        raise UserError("--ensemble is for runs on this machine; a job of a cluster has one run")
    if not here and WORKERS.value:
        raise UserError(
            "--workers is for runs on this machine; give array_parallelism in --cluster_options"
        )


def takes_argument(get_hyper: Callable) -> bool:
    """Returns whether a get_hyper takes the config's argument, behind the functions of sweeps."""
    return len(inspect.signature(get_hyper).parameters) > 1


def read_sweep(base: Config) -> Sweep:
    """Returns every combination of the runs of the config's get_hyper and those of --grid."""
    made = []
    if get_hyper := overrides.config_function("get_hyper"):
        argument = overrides.config_argument() if takes_argument(get_hyper) else ()
        made.append(hyper.check_sweep(get_hyper(hyper, *argument)))
    if GRID.value.strip():
        made.append(parse_grid(GRID.value, base))
    sweep = hyper.product(made) if made else []
    fields = {name for each in sweep for name in each}
    if twice := fields & {each.field for each in overrides.overrides(sys.argv)}:
        raise UserError(
            f"--config.{min(twice)} is given, and the sweep varies it; give one of both"
        )
    return sweep


if __name__ == "__main__":
    cli.run(main)
