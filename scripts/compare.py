"""Trains and measures the members of a comparison.

    python scripts/compare.py --config=configs/compare.py [--workdir=RUNS]

RUNS gets a directory for each member with its runs, records.jsonl with the records of all, and
report.md, report.html, report.tex and results.csv. The same command continues what was cut short
and reuses what is finished; --minutes cuts it short in good order. On a CPU members are trained
side by side, each on a share of the cores (--workers), and so are the probes of config.probes. What
the first seed's programs need is measured alone, once all members are trained. Where the runs of
probes are gone, --known takes them from the records that they left.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from _root import ROOT
from configs import lm, probes, seq2seq
from seqarch.compare import comparison, spec
from seqarch.compare.commands import ConfigFile, with_command
from seqarch.compare.deadline import in_minutes
from seqarch.compare.known import read_known
from seqarch.compare.probing import probe_studies
from seqarch.compare.spec import ComparisonSpec
from seqarch.compare.study import Study
from seqarch.config import parse
from seqarch.errors import UserError, printable_line
from seqarch.files import local_path
from seqarch.records import Results
from seqarch.report.comparison import comparison_tables
from seqarch.report.members import PROBE, Member
from seqarch.report.pages import write_report
from seqarch.report.render import text_table
from seqarch.report.run_files import with_files
from seqarch.runtime import cli
from seqarch.runtime.progress import print_line
from seqarch.runtime.workers import check_workers
from seqarch.tasks import find
from seqarch.tasks.base import BITS_PER_BYTE
from seqarch.tasks.probe import Probe

CONFIG = cli.define_config()
WORKDIR = cli.define_path(
    "workdir", None, "Directory of the runs and the report; default: runs/NAME in the repository."
)
WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "Members trained at once, each on its share of a CPU's cores; default: one a core.",
)
MINUTES = flags.DEFINE_float(
    "minutes",
    None,
    "Time after which no run is begun; the report is written with what there is, and the same "
    "command goes on. Default: no end.",
    lower_bound=0.0,
)
KNOWN = flags.DEFINE_multi_string(
    "known",
    [],
    "Records of a comparison, whose runs on probes are taken as they are; may be given again.",
)
flags.mark_flag_as_required("config")


def main() -> None:
    given = spec.read(CONFIG.value.to_dict())
    workdir = Path(WORKDIR.value) if WORKDIR.value else ROOT / "runs" / given.name
    deadline = in_minutes(MINUTES.value)
    members = comparison.studies(given, workdir, deadline)
    known = read_known(map(local_path, KNOWN.value))
    start = lambda each: parse(probes.get_config(each))
    probing = probe_studies(given, workdir, start, deadline, known)
    if members:
        print_line(f"{len(members)} members, {_runs(members, given)}, in {workdir}")
    if probing:
        count, left = sum(each.runs for each in probing), sum(each.left() for each in probing)
        print_line(f"{len(given.probes)} probes, {count} runs, {left} left, in {workdir}")
    at_once = check_workers(WORKERS.value)
    found, failures, left = comparison.run(given, members, workdir, at_once, print_line, probing)
    found = found._replace(
        members=tuple(_with_commands(each, given) for each in found.members),
        probes=tuple(_with_probe_command(each, given) for each in found.probes),
    )
    if found.results and jax.process_index() == 0:
        paths = write_report(with_files(found, workdir), workdir)
        print(f"\n{text_table(comparison_tables(found)[0])}\n\n{printable_line(found.notice)}\n")
        print("\n".join(f"wrote {path}" for path in paths))
    if left:
        print_line(f"{left} runs are left; the same command goes on with them")
    if failures:
        raise UserError(
            f"{len(failures)} of {len(members)} members came to no result: {'; '.join(failures)}"
        )


def _runs(members: Sequence[Study], given: ComparisonSpec) -> str:
    """Returns how many runs the members make, and their budgets."""
    count = len(members) * (len(given.lrs) + len(given.seeds))
    budgets = {(each.config.steps, each.config.batch, each.config.length) for each in members}
    sizes = [f"{each[0]:,} steps = {math.prod(each):,} tokens" for each in sorted(budgets)]
    return f"{count} runs of {' or '.join(sizes)}"


def _with_commands(member: Member, given: ComparisonSpec) -> Member:
    """Returns a model with the commands of its runs; baselines as they are."""
    file, runs = file_of(given.base.task), f"runs/{given.name}/{member.name}"
    if member.kind != "run":
        return member
    return member._replace(results=tuple(with_command(each, file, runs) for each in member.results))


def _with_probe_command(results: Results, given: ComparisonSpec) -> Results:
    """Returns the results of a run on a probe with its command; others as they are."""
    if results.source.kind != PROBE or not results.source.seeds:
        return results
    title = results.fact(PROBE, "title")
    runs = f"runs/{given.name}/{results.source.member}/probes/{title}"
    return with_command(results, file_of(results.source.config["task"]), runs)


def file_of(task: str) -> ConfigFile:
    """Returns the config file from which runs on a task start."""
    if find(task).score == BITS_PER_BYTE:
        return ConfigFile("configs/lm.py", lm.get_config)
    if not issubclass(find(task), Probe):
        return ConfigFile("configs/seq2seq.py", seq2seq.get_config, f"{task},")
    return ConfigFile("configs/probes.py", probes.get_config, f"{task},")


if __name__ == "__main__":
    cli.run(main)
