"""Commands that make a row of a comparison again."""

import dataclasses
import shlex
from collections.abc import Callable

from seqarch.config import Config, flatten, parse, to_dict
from seqarch.records import Results
from seqarch.report.members import Member

Start = Callable[[str], Config]  # from a layer pattern to the config that train.py starts from


def command(
    config: Config, start: Config, file: str, run: str, split: str, before: str = ""
) -> str:
    """Returns what trains and measures `config` again.

    Args: config: of the run. start: what the config file gives for the run's layer pattern; fields
      in which `config` differs
        are overridden.
      file: the config file, such as "configs/lm.py".
      run: the run's directory.
      split: of the held-out data.
      before: what precedes the layer pattern in the file's argument, such as "mqar,".
    """
    given = flatten(to_dict(start))
    changed = {
        field: value
        for field, value in flatten(to_dict(config)).items()
        if value != given.get(field)
    }
    overrides = [
        f"--config.{field}={tuple(v) if isinstance(v, list) else v}" for field, v in changed.items()
    ]
    trained = [
        "python",
        "train.py",
        f"--config={file}:{before}{config.model.mixer}",
        *overrides,
        f"--workdir={run}",
    ]
    measured = ["python", "eval.py", f"--workdir={run}", f"--split={split}"]
    return f"{shlex.join(trained)} && {shlex.join(measured)}"


def with_commands(member: Member, start: Start, file: str, runs: str, before: str = "") -> Member:
    """`member` with the command of each of its runs; runs: the directory of them all."""

    def with_command(results: Results) -> Results:
        config = parse(dict(results.source.config))
        run = f"{runs}/{member.name}/seed-{config.seed.model}"
        split = results.source.split
        again = command(config, start(config.model.mixer), file, run, split, before)
        made = dict(results.source.provenance) | dict(again=again)
        return results._replace(source=dataclasses.replace(results.source, provenance=made))

    return member._replace(results=tuple(map(with_command, member.results)))
