"""Writes the metrics of a run to RUN/metrics.jsonl and to the trackers that the config names.

    {"step": 12, "loss": 2.9, "bits_per_byte": 4.2, "learning_rate": 7.2e-4, "grad_norm": 0.8,
     "refused": 0, "step_seconds": 0.1, "tokens_per_s": 4.1e4, "model_flops_per_s": 9.7e10,
     "process_peak_rss_bytes": 5e8, "validation_bits_per_byte": 4.1}

seqarch.training.metrics describes each of them. A number that is not finite is null in
metrics.jsonl, so that each line is standard JSON.
"""

import contextlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqarch.files import has_shape, parse_json, write_text
from seqarch.runtime.progress import Say
from seqarch.runtime.trackers import Tracker, open_tracker
from seqarch.training.metrics import METRICS, check_metrics


class Logger:
    """Logs the metrics of one start of a run to its own log and to trackers; a context manager.

    Args:
      run_dir: the run's directory.
      start: the step that the run continues from.
      write: whether this process writes; of several processes only one does.
      trackers: names in seqarch.runtime.trackers.TRACKERS.
      say: is called with a warning where rows up to `start` are missing or doubled.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike,
        start: int = 0,
        *,
        write: bool = True,
        trackers: Sequence[str] = ("tensorboard",),
        say: Say = print,
    ):
        self._sinks: list[Tracker] = []
        if write:
            chosen = [open_tracker(name, Path(run_dir), start, METRICS) for name in trackers]
            self._sinks = [JsonLines(run_dir, start, say), *chosen]

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for sink in self._sinks:
            sink.close(success=kind is None)

    def log(self, row: Mapping[str, float]) -> None:
        """Logs the metrics of one step; raises UserError for one that METRICS does not have."""
        check_metrics(row)
        for sink in self._sinks:
            sink.log(row)

    def texts(self, texts: Mapping[str, Any], step: int = 0) -> None:
        """Logs facts about the run as they are from `step` on."""
        for sink in self._sinks:
            sink.texts(texts, step)

    def hparams(self, hparams: Mapping[str, Any]) -> None:
        """Logs the run's hyper-parameters by dotted name, instead of those of an earlier start."""
        for sink in self._sinks:
            sink.hparams(hparams)


class JsonLines:
    """The run's own log: a tracker that writes metrics.jsonl, with one row per step.

    Rows after the step `start` and a half-written last one are removed; of doubled rows the last
    one stays. Texts and hyper-parameters are in config.json and run.json instead.
    """

    def __init__(self, run_dir: str | os.PathLike, start: int, say: Say):
        path = Path(run_dir) / "metrics.jsonl"
        if faults := _cut(path, start):
            say(f"warning: {path} {faults}; the run goes on")
        self._file = path.open("a")

    def log(self, row: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()

    def texts(self, texts: Mapping[str, Any], step: int) -> None:
        pass

    def hparams(self, hparams: Mapping[str, Any]) -> None:
        pass

    def close(self, success: bool) -> None:
        self._file.close()


def read_rows(run_dir: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the rows of metrics.jsonl, without damaged lines such as a half-written last one."""
    path = Path(run_dir) / "metrics.jsonl"
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            row = parse_json(line)
            if has_shape(row, {"step": int, "*": int | float | None}):
                rows.append(row)
    return rows


def trained_seconds(run_dir: str | os.PathLike) -> float | None:
    """Returns the time that a run's steps took, without what came between; None if it is unknown.

    A run that others shared a program with has its part of the time.
    """
    times = [row.get("step_seconds") for row in read_rows(run_dir)]
    return None if None in times or not times else sum(times)


def _cut(path: Path, last: int) -> str:
    """Rewrites metrics.jsonl with one row per step up to `last`; returns `find_faults` of it."""
    faults = find_faults(path.parent, last)
    rows = [row for row in read_rows(path.parent) if 1 <= row["step"] <= last]
    if path.exists():
        kept = {row["step"]: row for row in rows}  # of doubled rows the last one
        write_text(path, "".join(json.dumps(kept[step]) + "\n" for step in sorted(kept)))
    return faults


def find_faults(run_dir: str | os.PathLike, last: int) -> str:
    """Returns a text that names missing and doubled rows of metrics.jsonl up to a step, or ""."""
    counts = Counter(row["step"] for row in read_rows(run_dir) if 1 <= row["step"] <= last)
    missing = [step for step in range(1, last + 1) if step not in counts]
    doubled = [step for step in sorted(counts) if counts[step] > 1]
    faults = [f"has no rows of steps {_ranges(missing)}"] if missing else []
    faults += [f"had several of steps {_ranges(doubled)} (the last are kept)"] if doubled else []
    return " and ".join(faults)


def _ranges(steps: Iterable[int]) -> str:
    """Returns a list of steps as text: [1, 2, 3, 7] -> "1-3, 7"."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and runs[-1][1] == step - 1:
            runs[-1][1] = step
        else:
            runs.append([step, step])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
