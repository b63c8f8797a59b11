"""Trains and measures the members of a comparison: python scripts/compare.py --config=configs/compare.py [--workdir=RUNS]

RUNS gets a directory for each member with its runs, baselines.json, and report.md, results.csv, results.json and report.html.
The same command continues what was cut short and reuses what is finished.
"""

import dataclasses
import json
import math
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
from absl import flags
from ml_collections import config_flags

from configs import lm
from seqarch import cli
from seqarch.comparison import plan, runs
from seqarch.comparison.evidence import judged, over_seeds
from seqarch.comparison.members import match_members
from seqarch.comparison.plan import Plan
from seqarch.comparison.progress import Progress
from seqarch.comparison.search import search
from seqarch.config import Config, parse, to_dict
from seqarch.data.corpus import locate
from seqarch.data.tokens import open_split
from seqarch.errors import NoResult, UserError
from seqarch.files import write_json
from seqarch.measure.baselines import BASELINES
from seqarch.measure.comparison_tables import summary_table
from seqarch.measure.evaluate import EVALUATORS
from seqarch.measure.report import text_table, write_report
from seqarch.measure.tables import Row
from seqarch.training import rundir

CONFIG = config_flags.DEFINE_config_file("config", None, "configs/FILE.py[:ARGUMENT]; fields are set by --config.FIELD=VALUE.")
WORKDIR = cli.define_path("workdir", None, "Directory of the runs and the report; default: runs/NAME in the repository.")
flags.mark_flag_as_required("config")

SCORED = ("quality", "context")  # for every seed; what a program needs is measured for the first


def main() -> None:
    given = plan.read(CONFIG.value.to_dict())
    workdir = Path(WORKDIR.value) if WORKDIR.value else ROOT / "runs" / given.name
    configs = match_members(given.base, given.reference, given.members)
    locate(given.base.data.path, given.base.model.vocab)
    _keep_compilations(workdir)
    for name, config in configs.items():
        for directory, run in _first_runs(config, given):
            runs.check(workdir / name / directory, run)

    progress = Progress(len(configs) * (len(given.lrs) + len(given.seeds)))
    tokens = given.base.steps * given.base.batch * given.base.length
    progress.say(f"{len(configs)} members, {progress.total} runs of {given.base.steps:,} steps = {tokens:,} tokens, in {workdir}")
    baselines = baseline_rows(given, workdir, progress)
    members, without = member_rows(configs, given, workdir, progress)
    rows, notice = judged(members) + baselines, "; ".join([given.notice, *without])
    if members and jax.process_index() == 0:
        title = f"Sequence mixers compared: {given.name}"
        paths = write_report(rows, workdir, title=title, notice=notice, command=this_command())
        print(f"\n{text_table(summary_table(rows), rows)}\n\n{notice}\n" + "\n".join(f"wrote {path}" for path in paths))
    if without:
        raise UserError(f"{len(without)} of {len(configs)} members came to no result: {'; '.join(without)}")


def member_rows(configs: dict[str, Config], given: Plan, workdir: Path, progress: Progress) -> tuple[list[Row], list[str]]:
    """Rows, and what to say of each member that came to no result."""
    rows, without = [], []
    for name, config in configs.items():
        try:
            rows.append(member_row(name, config, given, workdir, progress))
        except NoResult as error:
            progress.say(f"no result: {error}")
            without.append(f"{name} is missing: {error}")
        progress.total = progress.done + (len(configs) - len(rows) - len(without)) * (len(given.lrs) + len(given.seeds))
    return rows, without


def member_row(name: str, config: Config, given: Plan, workdir: Path, progress: Progress) -> Row:
    """Chooses a member's learning rate, trains and measures it for each seed, and takes what is there of all this."""
    scores: dict[float, float] = {}
    if given.lrs:
        lr, scores = search(given.lrs, lambda lr: _validated(name, config, lr, given, workdir, progress))
        config = runs.with_choice(config, lr=lr)
    by_seed, seeded = {}, [runs.with_choice(config, seed=seed) for seed in given.seeds]
    for seed, each in zip(given.seeds, seeded, strict=True):
        progress.begin(f"{name}, seed {seed}")
        only = SCORED if by_seed else EVALUATORS
        by_seed[seed] = runs.measured(workdir / name / f"seed-{seed}", each, given.split, only, progress)
    values = over_seeds(by_seed)
    values["search"] = {f"{lr:g}": score if math.isfinite(score) else None for lr, score in scores.items()}
    made = json.loads((workdir / name / f"seed-{given.seeds[0]}" / "run.json").read_text())
    seeds = dict(seed=", ".join(map(str, given.seeds)))
    again = command(seeded[0], f"runs/{given.name}/{name}/seed-{given.seeds[0]}", given.split)
    return Row(name, "model", values, to_dict(seeded[0]), seeds, runs.revision(made), again)


def _first_runs(config: Config, given: Plan) -> list[tuple[str, Config]]:
    """Those whose configs are known from the start, with their directories."""
    if given.lrs:
        return [(f"lr-{lr:g}", runs.with_choice(config, lr=lr)) for lr in given.lrs]
    return [(f"seed-{seed}", runs.with_choice(config, seed=seed)) for seed in given.seeds]


def _validated(name: str, config: Config, lr: float, given: Plan, workdir: Path, progress: Progress) -> float:
    """One point of a member's search, from the config's own seed, which is none of those that are reported."""
    progress.total += lr not in given.lrs
    progress.begin(f"{name}, learning rate {lr:g}")
    return runs.validated(workdir / name / f"lr-{lr:g}", runs.with_choice(config, lr=lr), progress)


def command(config: Config, run: str, split: str) -> str:
    """What trains and measures `config` again: configs/lm.py and the fields in which it differs."""
    start = rundir.flatten(to_dict(parse(lm.get_config(config.model.mixer))))
    changed = {field: value for field, value in rundir.flatten(to_dict(config)).items() if value != start[field]}
    overrides = [f"--config.{field}={tuple(v) if isinstance(v, list) else v}" for field, v in changed.items()]
    trained = ["python", "train.py", f"--config=configs/lm.py:{config.model.mixer}", *overrides, f"--workdir={run}"]
    measured = ["python", "eval.py", f"--workdir={run}", f"--split={split}"]
    return f"{shlex.join(trained)} && {shlex.join(measured)}"


def baseline_rows(given: Plan, workdir: Path, progress: Progress) -> list[Row]:
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
            progress.say(f"baseline {baseline}")
            known["values"][baseline] = dict(evaluator(fitted, held_out, limit=limit))
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    again = this_command()
    return [Row(each, "baseline", values, {}, {}, known["revision"], again) for each, values in known["values"].items()]


def this_command() -> str:
    return shlex.join(["python", "scripts/compare.py", *(argument.replace(f"{ROOT}/", "") for argument in sys.argv[1:])])


def _keep_compilations(workdir: Path) -> None:
    """Runs of one member are one program: compiled once, also where the comparison is continued."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "compilations"))


if __name__ == "__main__":
    cli.run(main)
