"""Runs on probes that were finished elsewhere, and are known by the records of a comparison.

    known = read_known([Path("docs/abilities/records.jsonl")])

So evidence that takes many hours is gathered in slices, on other machines too: each slice commits
its records, and the next one begins with them.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from seqarch import records
from seqarch.compare import execution
from seqarch.config import Config, parse, to_dict
from seqarch.errors import UserError, naming
from seqarch.records import Results
from seqarch.report.members import PROBE, PROBE_SEARCH


class Known(NamedTuple):
    """Records by config, which `_key` makes a text.

    Attributes:
      scored: those of runs that were scored.
      searched: those of searches for a learning rate.
    """

    scored: Mapping[str, Results] = MappingProxyType({})
    searched: Mapping[str, Results] = MappingProxyType({})

    def score(self, config: Config, split: str) -> Results | None:
        """Returns the records of the run with a config on a split; None where some are missing."""
        found = self.scored.get(_key(config))
        if found is None or found.source.split != split:
            return None
        diverged = any(record.status == "diverged" for record in found.records)
        return found if diverged or not execution.missing(found, tuple(config.evals)) else None

    def scores(self, config: Config) -> dict[tuple[float, int], float]:
        """Returns what a search found by learning rate and seed; NaN where training diverged.

        `config` is what its runs have in common.
        """
        if (found := self.searched.get(_key(config))) is None:
            return {}
        values = ((each.at, each.value) for each in found.records)
        return {
            (at["lr"], at["seed"]): math.nan if value is None else value for at, value in values
        }


def read_known(paths: Iterable[Path]) -> Known:
    """Reads the runs on probes of records files; of the same run the last records hold.

    Raises:
      UserError: where a file has none, or cannot be read.
    """
    kinds: dict[str, dict[str, Results]] = {PROBE: {}, PROBE_SEARCH: {}}
    for path in paths:
        found = [each for each in records.read(path).results if each.source.kind in kinds]
        if not found:
            raise UserError(
                f"{path} has no records of probes; give records.jsonl of a comparison with probes"
            )
        for each in found:
            with naming(str(path)):
                config = parse(dict(each.source.config))
            kinds[each.source.kind][_key(config)] = each
    return Known(*kinds.values())


def _key(config: Config) -> str:
    """Returns the fields of a config that change results."""
    return json.dumps(records.measured_fields(to_dict(config)), sort_keys=True)
