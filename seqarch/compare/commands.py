"""Commands that reproduce a row of a comparison."""

import shlex
from collections.abc import Callable

from seqarch.config import Config, parse
from seqarch.config.values import values_of
from seqarch.records import Results
from seqarch.report.members import Member

Start = Callable[[str], Config]  # from a layer pattern to the config that train.py starts from


def command(
    config: Config, start: Config, file: str, run: str, split: str, before: str = ""
) -> str:
    """Returns the command that trains and measures a run again.

    Args:
      config: the run's config.
      start: what the config file gives for the run's layer pattern; fields in which `config`
        differs are overridden.
      file: the config file, such as "configs/lm.py".
      run: the run's directory.
      split: the held-out data.
      before: what precedes the layer pattern in the file's argument, such as "mqar,".
    """
    given, overrides = values_of(start), []
    for field, value in values_of(config).items():
        if value != given.get(field):
            shown = tuple(value) if isinstance(value, list) else value
            overrides.append(f"--config.{field}={shown}")
    source = f"--config={file}:{before}{config.model.mixer}"
    train = ["python", "train.py", source, *overrides, f"--workdir={run}"]
    measure = ["python", "eval.py", f"--workdir={run}", f"--split={split}"]
    return f"{shlex.join(train)} && {shlex.join(measure)}"


def with_commands(member: Member, start: Start, file: str, runs: str, before: str = "") -> Member:
    """Returns a member with the command of each of its runs.

    Args:
      member: the member.
      start: returns the config that a layer pattern starts from.
      file: the config file.
      runs: the directory of all runs.
      before: what precedes the layer pattern in the file's argument.
    """

    runs = f"{runs}/{member.name}"
    made = (with_command(each, start, file, runs, before) for each in member.results)
    return member._replace(results=tuple(made))


def with_command(results: Results, start: Start, file: str, runs: str, before: str = "") -> Results:
    """Returns results of a run with its command; the arguments are those of `with_commands`."""
    config = parse(dict(results.source.config))
    run, split = f"{runs}/seed-{config.seed.model}", results.source.split
    again = command(config, start(config.model.mixer), file, run, split, before)
    made = dict(results.source.provenance) | dict(again=again)
    return results.with_source(provenance=made)
