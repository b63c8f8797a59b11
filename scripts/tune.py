"""Finds the fastest form of each mixer on this device, which method=auto then means here.

    python scripts/tune.py

Every form, in every size of chunks or blocks, is timed forward and backward at batch 8, length 512,
width 256, or with --config=configs/lm.py:mamba at those of the config, for the mixers of its
pattern. The choice is kept for this kind of device and version of jaxlib, in seqarch/forms.json in
the user's cache directory; $SEQARCH_FORMS names another file. A run that has begun keeps its forms,
which its run.json shows, and a config may name a method: mamba(method=chunked,chunk=128).

    python scripts/tune.py --target=tpu-v5e

estimates them for a TPU that isn't there, by its compiler, at batch 8, length 2,048, width 1,024 in
bfloat16. The estimates are kept in docs/forms/TARGET, with those of ops that have a goal, and the
choice in seqarch/tuned.json, where it is the default on such devices.

    python scripts/tune.py --target=tpu-v5e --models=all

estimates the train steps of whole models there, with these forms and with those of other
accelerators: the members of configs/compare.py:full with twelve layers and at most 64 rows of 2,048
tokens, or those of --config. With --decode=1024,65536 it estimates instead how long a token takes
that is decoded after so many. The estimates are kept in docs/models/TARGET.

    python scripts/tune.py --target=tpu-v5e --newton=docs/benchmarks/newton/records.jsonl

estimates cells in Newton's method there, with the iterations that bench.py --only=newton counted.
The estimates are kept in TARGET beside these records.
"""

import sys
from pathlib import Path

from absl import flags

from _root import ROOT
from seqarch.runtime import cli

CONFIG = cli.define_config(
    help="A config whose shapes are tuned for; default: every mixer at 8 x 512."
)
TARGET = flags.DEFINE_string(
    "target", None, "An absent TPU whose compiler estimates the forms, such as tpu-v5e."
)
WORKERS = flags.DEFINE_integer(
    "workers", None, "With --target: processes that compile at once; default: one a core."
)
MODELS = flags.DEFINE_list(
    "models", [], "With --target: estimate train steps of these members instead; all: of each."
)
FORMS = flags.DEFINE_list("forms", ["plain", "kernels"], "With --models: the forms of mixers.")
DECODE = flags.DEFINE_list(
    "decode", [], "With --models: estimate decoding after so many tokens instead."
)
OPS = flags.DEFINE_string(
    "ops", "", "With --target: estimate the ops with a goal that have this in their name."
)
WITH_MIXERS = flags.DEFINE_bool("mixers", True, "With --target: estimate mixers.")
NEWTON = cli.define_path(
    "newton",
    None,
    "With --target: estimate Newton's method instead, as often as these records say.",
)
LIMIT_S = flags.DEFINE_float("limit", 1800.0, "With --target: seconds that each may take.")
DRY = flags.DEFINE_bool("dry_run", False, "Print the choice and do not keep it.")


def main() -> None:
    from seqarch.config import Config, ModelConfig, parse
    from seqarch.errors import UserError
    from seqarch.mixers import MIXERS, resolve_mixer

    if TARGET.value is None:
        for flag in (WORKERS, MODELS, FORMS, DECODE, OPS, WITH_MIXERS, LIMIT_S, NEWTON):
            if flag.present:
                raise UserError(f"--{flag.name} needs --target, such as --target=tpu-v5e")
    elif NEWTON.value:
        for flag in (MODELS, FORMS, DECODE, OPS, WITH_MIXERS):
            if flag.present:
                raise UserError(f"--newton and --{flag.name} cannot be combined; give one of both")
        _estimate_newton(Path(NEWTON.value), TARGET.value)
        return
    elif MODELS.value:
        if DECODE.value and FORMS.present:
            raise UserError("--forms is for train steps; leave it out with --decode")
        _estimate_models(TARGET.value)
        return
    for flag in (FORMS, DECODE):
        if flag.present:
            raise UserError(f"--{flag.name} needs --models, such as --models=all")
    every = ",".join(name for name in MIXERS if resolve_mixer(name).forms)
    if TARGET.value:
        model = ModelConfig(every, dim=1024, dtype="bfloat16")
        default = Config(batch=8, length=2048, model=model)
        config = parse(CONFIG.value) if CONFIG.value else default
        _estimate(config if WITH_MIXERS.value else None, TARGET.value)
    else:
        default = Config(batch=8, length=512, model=ModelConfig(every, dim=256))
        _time(parse(CONFIG.value) if CONFIG.value else default)


def _time(config) -> None:
    """Times forms on this device, and keeps the fastest."""
    import jax

    from benchmarks.tables import measured_tables
    from benchmarks.tune import tune
    from seqarch import tuning
    from seqarch.records import Results, Source
    from seqarch.report.render import text_table

    choices, timings = tune(config, say=_say)
    measured = tuple(record for timing in timings for record in timing.records())
    for table in measured_tables(Results(Source("seqarch", "benchmark"), measured)):
        if table.rows:
            print(text_table(table))
    _keep(choices, lambda: tuning.record(jax.devices()[0], choices))


def _estimate(config, target: str) -> None:
    """Estimates forms for an absent TPU, and keeps the estimates and what is fastest."""
    from benchmarks import estimates, forms_file
    from benchmarks.goals import GOALS
    from seqarch import records, tuning
    from seqarch.errors import unknown
    from seqarch.report.render import text_table
    from seqarch.runtime.workers import check_workers

    path, found = ROOT / "docs/forms" / target / records.NAME, []
    device, at_once = estimates.device_of(target), check_workers(WORKERS.value)
    ops = [name for name in GOALS if OPS.value in name]
    if not ops:
        raise unknown("op with a goal", OPS.value, GOALS)
    each = estimates.estimate(config, target, at_once, ops, _say, LIMIT_S.value)
    for name, measured in each:
        found.append(forms_file.results_of(name, config, measured))
        if not DRY.value:
            forms_file.update(path, target, found[-1])
    for table in forms_file.forms_page(dict(target=target), found).tables:
        print(text_table(table))
    choices = forms_file.choices(found, device.platform)
    _keep(choices, lambda: tuning.record_estimates(device, choices))


def _estimate_models(target: str) -> None:
    """Estimates models on an absent TPU, and keeps the estimates."""
    from benchmarks import decoding, models, models_file
    from seqarch import records
    from seqarch.errors import unknown
    from seqarch.report.render import text_table

    for name in FORMS.value:
        if name not in models.FORMS:
            raise unknown("form", name, models.FORMS)
    path, found = ROOT / "docs/models" / target / records.NAME, []
    if DECODE.value:
        contexts = cli.read_lengths(DECODE.value, DECODE.name)
        each = decoding.estimate(_members(), target, contexts, _say)
    else:
        each = models.estimate(_members(), target, FORMS.value, _say, LIMIT_S.value)
    for results in each:
        found.append(results)
        if not DRY.value:
            models_file.update(path, target, results)
    for table in models_file.models_page(dict(target=target), found).tables:
        print(text_table(table))


def _estimate_newton(counts: Path, target: str) -> None:
    """Estimates Newton's method on an absent TPU, and keeps the estimates."""
    from benchmarks import bench, newton_file
    from seqarch import records
    from seqarch.report.render import text_table
    from seqarch.runtime.workers import check_workers

    path, found = counts.parent / target / records.NAME, []
    measured = bench.read(counts, "newton")
    at_once = check_workers(WORKERS.value)
    for results in newton_file.estimate(measured, target, at_once, _say, LIMIT_S.value):
        found.append(results)
        if not DRY.value:
            newton_file.update(path, target, results)
    for table in newton_file.newton_page(dict(target=target), found).tables:
        print(text_table(table))


def _members():
    """Returns the configs of the members that --models names."""
    from benchmarks.models import core_config
    from seqarch.compare import spec
    from seqarch.compare.members import match_members
    from seqarch.errors import unknown

    given = spec.read((CONFIG.value or core_config()).to_dict())
    members = match_members(given.base, given.reference, given.members, given.match)
    if MODELS.value == ["all"]:
        return members
    for name in MODELS.value:
        if name not in members:
            raise unknown("member", name, members)
    return {name: members[name] for name in MODELS.value}


def _keep(choices, write) -> None:
    """Prints the choices, and writes them where they are to be kept."""
    from seqarch.patterns import Layer

    for mixer, options in choices.items():
        print(f"chosen: {Layer(mixer, tuple(options.items()))}")
    if choices and not DRY.value:
        print(f"kept in {write()}")


def _say(line: str) -> None:
    print(f"{line}\n", end="", file=sys.stderr, flush=True)  # at once, as threads call it


if __name__ == "__main__":
    cli.run(main)
