"""Trains and measures the members of a comparison: python scripts/compare.py --config=configs/compare.py [--workdir=RUNS]

RUNS gets a directory for each member with its runs, baselines.json, and report.md, results.csv, results.json and report.html.
The same command continues what was cut short and reuses what is finished. On a CPU members are trained side by side, each on
a share of the cores (--workers); what the first seed's programs need is measured when all are trained, with nothing beside it.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
from absl import flags
from ml_collections import config_flags

from configs import lm
from seqarch import cli
from seqarch.comparison import plan, runs
from seqarch.comparison.evidence import judged
from seqarch.comparison.members import match_members
from seqarch.comparison.plan import Plan
from seqarch.comparison.progress import Progress
from seqarch.comparison.study import Study
from seqarch.comparison.workers import most_workers, side_by_side
from seqarch.config import Config, parse, to_dict
from seqarch.data.corpus import locate
from seqarch.data.tokens import open_split
from seqarch.errors import NoResult, UserError
from seqarch.files import cache_directory, write_json
from seqarch.measure.baselines import BASELINES
from seqarch.measure.comparison_tables import summary_table
from seqarch.measure.report import text_table, write_report
from seqarch.measure.tables import Row
from seqarch.training import rundir

CONFIG = config_flags.DEFINE_config_file("config", None, "configs/FILE.py[:ARGUMENT]; fields are set by --config.FIELD=VALUE.")
WORKDIR = cli.define_path("workdir", None, "Directory of the runs and the report; default: runs/NAME in the repository.")
WORKERS = flags.DEFINE_integer("workers", None, "Members trained at once, each on its share of a CPU's cores; default: one a core.")
flags.mark_flag_as_required("config")


def main() -> None:
    given = plan.read(CONFIG.value.to_dict())
    workdir = Path(WORKDIR.value) if WORKDIR.value else ROOT / "runs" / given.name
    _keep_compilations()  # before anything is compiled: JAX opens its cache once
    configs = match_members(given.base, given.reference, given.members)
    locate(given.base.data.path, given.base.model.vocab)
    workers = min(_workers(), len(configs))
    studies = [Study(name, config, given, workdir) for name, config in configs.items()]
    for study in studies:
        study.check()

    count = len(studies) * (len(given.lrs) + len(given.seeds))
    tokens = given.base.steps * given.base.batch * given.base.length
    _say(f"{len(studies)} members, {count} runs of {given.base.steps:,} steps = {tokens:,} tokens, in {workdir}")
    baselines = baseline_rows(given, workdir)
    untrained = {study.name: study for study in studies if not study.is_trained()}
    if untrained and workers > 1:
        side_by_side(untrained, _train, workers, _say)
    members, without = member_rows(studies)
    rows, notice = judged(members) + baselines, "; ".join([given.notice, *without])
    if members and jax.process_index() == 0:
        title = f"Sequence mixers compared: {given.name}"
        paths = write_report(rows, workdir, title=title, notice=notice, command=shlex.join(rundir.command()))
        print(f"\n{text_table(summary_table(rows), rows)}\n\n{notice}\n" + "\n".join(f"wrote {path}" for path in paths))
    if without:
        raise UserError(f"{len(without)} of {len(studies)} members came to no result: {'; '.join(without)}")


def member_rows(studies: Sequence[Study]) -> tuple[list[Row], list[str]]:
    """Rows, and what to say of each member that came to no result."""
    rows, without, progress = [], [], Progress(sum(study.left() for study in studies))
    for index, study in enumerate(studies, 1):
        try:
            rows.append(member_row(study, progress))
        except NoResult as error:
            progress.say(f"no result: {error}")
            without.append(f"{study.name} is missing: {error}")
        progress.total = progress.done + sum(study.left() for study in studies[index:])
    return rows, without


def member_row(study: Study, progress: Progress) -> Row:
    """Trains and measures a member, and says where its numbers come from: the first seed's run stands for it."""
    config, values = study.measure(progress)
    seed, first = next(iter(study.seeded(config).items()))
    made = json.loads((study.seed_run(seed) / "run.json").read_text())
    seeds = dict(seed=", ".join(map(str, study.plan.seeds)))
    again = command(first, f"runs/{study.plan.name}/{study.name}/seed-{seed}", study.plan.split)
    return Row(study.name, "model", values, to_dict(first), seeds, runs.revision(made), again)


def command(config: Config, run: str, split: str) -> str:
    """What trains and measures `config` again: configs/lm.py and the fields in which it differs."""
    start = rundir.flatten(to_dict(parse(lm.get_config(config.model.mixer))))
    changed = {field: value for field, value in rundir.flatten(to_dict(config)).items() if value != start[field]}
    overrides = [f"--config.{field}={tuple(v) if isinstance(v, list) else v}" for field, v in changed.items()]
    trained = ["python", "train.py", f"--config=configs/lm.py:{config.model.mixer}", *overrides, f"--workdir={run}"]
    measured = ["python", "eval.py", f"--workdir={run}", f"--split={split}"]
    return f"{shlex.join(trained)} && {shlex.join(measured)}"


def baseline_rows(given: Plan, workdir: Path) -> list[Row]:
    """Rows of seqarch.measure.baselines on the text and the bytes that models are scored on; kept in baselines.json."""
    path, directory = workdir / "baselines.json", locate(given.base.data.path)
    fitted, held_out = open_split(directory, "train"), open_split(directory, given.split)
    limit = given.base.eval.limit
    scored = dict(text=str(directory), documents=fitted.meta["splits"], split=given.split, limit=limit)
    known = json.loads(path.read_text()) if path.exists() else {}
    if known and known["scored"]["documents"] != scored["documents"]:
        raise UserError(f"{workdir} holds runs on another text, {known['scored']['text']} as it was; give another --workdir")
    if known.get("scored") != scored:
        known = dict(scored=scored, revision=runs.revision(rundir.revision()), values={})
        for baseline, evaluator in BASELINES.items():
            _say(f"baseline {baseline}")
            known["values"][baseline] = dict(evaluator(fitted, held_out, limit=limit))
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    again = shlex.join(rundir.command())
    return [Row(each, "baseline", values, {}, {}, known["revision"], again) for each, values in known["values"].items()]


def _train(study: Study) -> None:
    """In a process beside others."""
    _keep_compilations()
    study.train()


def _workers() -> int:
    """As many as were asked for, or as there are cores."""
    if WORKERS.value is None:
        return most_workers()
    if not 1 <= WORKERS.value <= most_workers():
        raise UserError(f"--workers is {WORKERS.value}; give 1 to {most_workers()}: a core for each, or one for an accelerator")
    return WORKERS.value


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)


def _keep_compilations() -> None:
    """Runs of one member are one program: compiled once, also where the comparison is continued.

    Compilations are native programs: they are kept in the user's cache, not in a directory that is passed on.

    A program for a CPU is split over the cores that its process had when it was compiled; JAX's cache does not ask how many.
    """
    directory = jax.config.jax_compilation_cache_dir or str(cache_directory() / "compilations")
    apart = f"/{rundir.cpus()}-cpus" if jax.default_backend() == "cpu" else ""
    jax.config.update("jax_compilation_cache_dir", directory + apart)


if __name__ == "__main__":
    cli.run(main)
