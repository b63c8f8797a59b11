"""Trains and measures the members of a comparison: python scripts/compare.py --config=configs/compare.py [--workdir=RUNS]

RUNS gets a run directory for each member, baselines.json, and report.md, results.csv and report.html. The same command
continues what was cut short and reuses what is finished.
"""

import dataclasses
import json
import re
import shlex
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax
from absl import flags
from ml_collections import config_flags

from configs import lm
from seqarch import cli
from seqarch.config import Config, parse, to_dict
from seqarch.data.corpus import locate
from seqarch.data.tokens import open_split
from seqarch.errors import UserError
from seqarch.matching import count_parameters, match_parameters
from seqarch.measure.baselines import BASELINES
from seqarch.measure.evaluate import EVALUATORS, evaluate
from seqarch.measure.report import text_table, write_report
from seqarch.measure.tables import Row, summary_table
from seqarch.training import rundir
from seqarch.training.loop import train

CONFIG = config_flags.DEFINE_config_file("config", None, "configs/FILE.py[:ARGUMENT]; fields are set by --config.FIELD=VALUE.")
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the runs and the report; default: runs/NAME in the repository.")
flags.mark_flag_as_required("config")

FIELDS = ("name", "notice", "reference", "members")  # what a comparison's config has beside a run's
SPLIT = "validation"  # the test split is for the one model that is chosen in the end
TRAINING = 0.6  # of the time that a member takes; only what is left is judged by it


def main() -> None:
    given = CONFIG.value.to_dict()
    if missing := [field for field in FIELDS if field not in given]:
        raise UserError(f"--config is no comparison: it has no {', '.join(missing)}; start from configs/compare.py")
    name, notice, reference, members = (given.pop(field) for field in FIELDS)
    workdir = Path(WORKDIR.value) if WORKDIR.value else ROOT / "runs" / name
    configs = match(parse(given), reference, members)
    runs = {member: workdir / member for member in configs}
    config = next(iter(configs.values()))
    locate(config.data.path)
    for member in configs:
        check(runs[member], configs[member])

    progress = Progress(list(configs))
    tokens = config.steps * config.batch * config.length
    progress.say(f"{len(configs)} members x {config.steps:,} steps = {tokens:,} tokens each, in {workdir}")
    baselines = baseline_rows(config, workdir, progress)
    rows = [model_row(member, configs[member], runs[member], f"runs/{name}-{member}", progress) for member in configs]
    if jax.process_index() == 0:
        rows += baselines
        paths = write_report(rows, workdir, title=f"Sequence mixers compared: {name}", notice=notice)
        print(f"\n{text_table(summary_table(rows), rows)}\n\n{notice}\n" + "\n".join(f"wrote {path}" for path in paths))


def match(base: Config, reference: str, members: tuple[str, ...]) -> dict[str, Config]:
    """The config of each member by name, with the parameters of `base` with the layers of `reference`."""
    with_mixer = lambda mixer: dataclasses.replace(base.model, mixer=mixer)
    target, configs = count_parameters(with_mixer(reference)), {}
    for member in members:
        name, pattern = re.fullmatch(r"(?:([^=(,:/]+?)\s*=)?\s*(.*)", member.strip()).groups()
        if (name or pattern) in configs:
            raise UserError(f"config.members has {name or pattern!r} twice; write 'another name = {pattern}'")
        configs[name or pattern] = dataclasses.replace(base, model=match_parameters(with_mixer(pattern), target))
    if not configs:
        raise UserError("config.members is empty; give at least one layer pattern, such as 'mamba'")
    return configs


def check(run: Path, config: Config) -> None:
    """Refuses a directory that holds another run; one with other `steps` would have another learning-rate schedule."""
    rundir.check(run, config)
    if (run / "config.json").exists() and (steps := rundir.read_config(run).steps) != config.steps:
        raise UserError(f"{run} holds a run of {steps} steps, the config has {config.steps}; give another --workdir")


def model_row(name: str, config: Config, run: Path, again: str, progress: "Progress") -> Row:
    """Trains and measures a member, or takes what is there. again: the directory in the command that repeats it."""
    values = measured(run, config)
    if values is None:
        progress.begin(name)
        train(config, run, progress=progress.say)
        rundir.write_json(run / "config.json", to_dict(config))  # a run that was trained before may be measured differently now
        values = evaluate(run, split=SPLIT, progress=progress.say)
        progress.end(name)
    else:
        progress.end(name, reused=True)
    made = json.loads((run / "run.json").read_text())
    seeds = dataclasses.asdict(config.seed)
    return Row(name, "model", values, to_dict(config), seeds, revision(made), command(config, again))


def measured(run: Path, config: Config) -> dict | None:
    """What eval.json of a finished run says, if it was measured as `config` wants it; else it is removed."""
    path = run / "eval.json"
    if not path.exists():
        return None
    values = json.loads(path.read_text())
    whole = set(EVALUATORS) <= {name.split("/")[0] for name in values} and values["quality/split"] == SPLIT
    if whole and values["run/step"] == config.steps and rundir.read_config(run).eval == config.eval:
        return values
    path.unlink(missing_ok=True)
    return None


def command(config: Config, run: str) -> str:
    """What trains and measures `config` again: configs/lm.py and the fields in which it differs."""
    start = rundir.flatten(to_dict(parse(lm.get_config(config.model.mixer))))
    changed = {field: value for field, value in rundir.flatten(to_dict(config)).items() if value != start[field]}
    overrides = [f"--config.{field}={tuple(v) if isinstance(v, list) else v}" for field, v in changed.items()]
    trained = ["python", "train.py", f"--config=configs/lm.py:{config.model.mixer}", *overrides, f"--workdir={run}"]
    return f"{shlex.join(trained)} && {shlex.join(['python', 'eval.py', f'--workdir={run}'])}"


def baseline_rows(config: Config, workdir: Path, progress: "Progress") -> list[Row]:
    """Rows of seqarch.measure.baselines on the text and the bytes that models are scored on; kept in baselines.json."""
    path, directory = workdir / "baselines.json", locate(config.data.path)
    fitted, held_out = open_split(directory, "train"), open_split(directory, SPLIT)
    scored = dict(text=str(directory), documents=fitted.meta["splits"], limit=config.eval.limit)
    known = json.loads(path.read_text()) if path.exists() else {}
    if known.get("scored") != scored:
        known = dict(scored=scored, revision=revision(rundir.revision()), values={})
        for baseline, evaluator in BASELINES.items():
            progress.say(f"baseline {baseline}")
            known["values"][baseline] = dict(evaluator(fitted, held_out, limit=config.eval.limit))
        workdir.mkdir(parents=True, exist_ok=True)
        rundir.write_json(path, known)
    arguments = [argument.replace(f"{ROOT}/", "") for argument in sys.argv[1:]]
    again = shlex.join(["python", "scripts/compare.py", *arguments])
    return [Row(each, "baseline", values, {}, {}, known["revision"], again) for each, values in known["values"].items()]


def revision(made: dict) -> str:
    return (made["revision"] or "unknown") + (" (modified)" if made["dirty"] else "")


class Progress:
    """Lines that say which member is being worked on and how long all that is left will take, judged by what was done."""

    def __init__(self, names: list[str]):
        self.names, self.name = names, ""
        self.done, self.skipped = 0.0, 0.0  # members, also in part; skipped: of those, not worked on now
        self.clock = self.seen = 0.0  # when the first member was begun, and when `done` was last known

    def begin(self, name: str) -> None:
        self.name, self.clock = name, self.clock or time.monotonic()

    def end(self, name: str, reused: bool = False) -> None:
        self._advance(1 + self.names.index(name))
        if reused:
            self.skipped += 1
            self.name = name
            self.say("is there already")

    def say(self, text: str) -> None:
        if match := re.search(r"step (\d+)(?:/| of )(\d+)", text):
            part = TRAINING * int(match[1]) / int(match[2])
            self._advance(self.names.index(self.name) + part)
            self.skipped += part if "going on" in text else 0
        place = f"[{1 + self.names.index(self.name)}/{len(self.names)} {self.name}{self._left()}] " if self.name else ""
        if jax.process_index() == 0:
            print(place + text, flush=True)

    def _advance(self, done: float) -> None:
        self.done, self.seen = done, time.monotonic()

    def _left(self) -> str:
        worked = self.done - self.skipped
        if worked < 0.3:  # of a member: before that, compilation would count as its usual pace
            return ""
        rate = (self.seen - self.clock) / worked
        left = rate * (len(self.names) - self.done) - (time.monotonic() - self.seen)
        return f", {max(left, 0) / 60:.1f} min left"


if __name__ == "__main__":
    cli.run(main)
