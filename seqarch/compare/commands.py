"""Commands that reproduce a row of a comparison."""

import shlex
from collections.abc import Callable
from typing import Any, NamedTuple

from seqarch.config import Config, parse
from seqarch.config.values import override, values_of
from seqarch.records import Results


class ConfigFile(NamedTuple):
    """A config file whose argument ends with a layer pattern.

    Attributes:
      path: such as "configs/lm.py".
      get_config: that of the file; takes the argument.
      before: what precedes the layer pattern in the argument, such as "mqar,".
    """

    path: str
    get_config: Callable[[str], Any]
    before: str = ""


def command(config: Config, file: ConfigFile, run: str, split: str) -> str:
    """Returns the command that trains and measures a run again.

    Args:
      config: the run's config; fields in which it differs from the file's are overridden.
      file: the config file.
      run: the run's directory.
      split: the held-out data.
    """
    argument = f"{file.before}{config.model.mixer}"
    given, ours = values_of(parse(file.get_config(argument))), values_of(config)
    overrides = [override(name, ours[name]) for name in ours if ours[name] != given.get(name)]
    source = f"--config={file.path}:{argument}"
    train = ["python", "train.py", source, *overrides, f"--workdir={run}"]
    measure = ["python", "eval.py", f"--workdir={run}", f"--split={split}"]
    return f"{shlex.join(train)} && {shlex.join(measure)}"


def with_command(results: Results, file: ConfigFile, runs: str) -> Results:
    """Returns results of a run with its command; `runs` is the directory of its member's runs."""
    config = parse(dict(results.source.config))
    run = f"{runs}/seed-{config.seed.model}"
    again = command(config, file, run, results.source.split)
    return results.with_source(provenance=dict(results.source.provenance) | dict(again=again))
