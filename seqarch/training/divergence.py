"""Whether a run is given up because its steps are not finite."""

from collections.abc import Mapping
from typing import Any

PATIENCE = 10  # steps; a run that refuses so many in a row has diverged
LAST_REFUSED = 2  # steps; so has one that ends with so many refused (one may be an outlier)


def is_diverged(row: Mapping[str, Any], steps: int) -> bool:
    """Returns whether a row of metrics.jsonl shows that a run of `steps` has diverged.

    It has after PATIENCE refused steps in a row, after LAST_REFUSED at the run's end, and, if it is
    shorter than that, where all steps but the first were refused.
    """
    limit = PATIENCE
    if row["step"] == steps:
        limit = max(1, min(LAST_REFUSED, steps - 1))
    return row.get("refused", 0) >= limit
