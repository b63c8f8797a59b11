"""Where a run's numbers go: RUN/metrics.jsonl and TensorBoard events, the same numbers in both; and
profiler traces.

    {"step": 12, "loss": 2.9, "bits_per_byte": 4.2, "learning_rate": 7.2e-4, "grad_norm": 0.8,
     "refused": 0, "step_seconds": 0.1, "tokens_per_s": 4.1e4, "model_flops_per_s": 9.7e10,
     "process_peak_rss_bytes": 5e8,
     "validation_bits_per_byte": 4.1}

A run in bfloat16 on devices whose peak rate is known also has "mfu", the model FLOPs per second as
a fraction of that rate.
A number that is not finite is null in metrics.jsonl, which stays standard JSON.
"""

import contextlib
import json
import math
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter, summary
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from seqarch.errors import printable
from seqarch.files import has_shape, parse_json, write_text

TAGS = {
    "loss": "train/loss",
    "bits_per_byte": "train/bits_per_byte",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "refused": "train/refused",
    "validation_bits_per_byte": "validation/bits_per_byte",
    "step_seconds": "speed/step_seconds",
    "tokens_per_s": "speed/tokens_per_s",
    "model_flops_per_s": "speed/model_flops_per_s",
    "mfu": "speed/mfu",
}

# TensorBoard keeps the first hyper-parameters that it reads of a run, and reads files in the order
# of their names, each until a later one is there: these stand in the first file, which is replaced.
HPARAMS_FILE = "events.out.tfevents.0.hparams"


class Logger:
    """Writes one run's numbers; a context manager.

    start: the step that the run goes on from; rows beyond it, and a half-written last one, are cut
      off
    write: whether this process is the one that writes
    say: takes a warning where rows up to `start` are missing or doubled; of doubled ones the last
      stays
    """

    def __init__(
        self,
        run_dir: str | os.PathLike,
        start: int = 0,
        write: bool = True,
        say: Callable[[str], None] = print,
    ):
        self._run_dir = Path(run_dir)
        self._write = write
        self._hparams: RecordWriter | None = None
        self._end: Summary | None = None
        if write:
            path = self._run_dir / "metrics.jsonl"
            if faults := _cut(path, start):
                say(f"warning: {path} {faults}; the run goes on")
            self._rows = path.open("a")
            # TensorBoard hides what an earlier start logged from purge_step on. Names have a
            # resolution of a second.
            self._events = SummaryWriter(
                str(run_dir), filename_suffix=f".{start}", purge_step=start + 1
            )

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._write:
            return
        self._rows.close()
        self._events.close()
        if self._hparams:
            if kind is None:
                _write_events(self._hparams, Event(summary=self._end))
            self._hparams.close()

    def log(self, row: Mapping[str, float]) -> None:
        """One step's numbers; `row["step"]` says which."""
        if not self._write:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        self._rows.write(json.dumps(finite) + "\n")
        self._rows.flush()
        self.scalars(
            {TAGS.get(name, f"memory/{name}"): row[name] for name in row.keys() - {"step"}},
            row["step"],
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """TensorBoard scalars by tag."""
        if self._write:
            for tag, value in values.items():
                self._events.add_scalar(tag, value, step)

    def describe(self, texts: Mapping[str, Any], step: int = 0) -> None:
        """Writes texts as JSON, at `step`."""
        if not self._write:
            return
        for name, value in texts.items():
            lines = json.dumps(value, indent=2).splitlines()
            self._events.add_text(name, "\n".join("    " + line for line in lines), step)

    def set_hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the run's hyper-parameters, instead of those of an earlier start.

        They are for TensorBoard's HParams tab, where the run counts as a success once this logger
        is left without an error. `SummaryWriter.add_hparams` would begin a run of its own in a
        subdirectory.
        """
        if not self._write:
            return
        plain = {
            name: value if isinstance(value, (bool, int, float)) else printable(str(value))
            for name, value in hparams.items()
        }
        metrics = {TAGS["validation_bits_per_byte"]: None, TAGS["loss"]: None}
        experiment, start, self._end = summary.hparams(plain, metrics)
        partial = self._run_dir / "hparams.partial"
        self._hparams = RecordWriter(str(partial))
        events = [Event(summary=each) for each in (experiment, start)]
        _write_events(self._hparams, Event(file_version="brain.Event:2"), *events)
        partial.replace(self._run_dir / HPARAMS_FILE)  # where the end is written, too


class Profile:
    """A profiler trace of LENGTH steps, or what is left of the run, from the step `first` on; 0 for
    none.
    """

    LENGTH = 5

    def __init__(self, run_dir: str | os.PathLike, first: int):
        self._run_dir, self._first, self._running = str(run_dir), first, False

    def before(self, step: int, state: Any) -> None:
        """To be called with the state that `step` starts from."""
        if self._first and step == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._run_dir)
            self._running = True

    def after(self, step: int, state: Any) -> None:
        """To be called with the state that `step` made."""
        if self._running and step == self._first + self.LENGTH - 1:
            self.stop(state)

    def stop(self, state: Any) -> None:
        """Ends a trace that is running, once `state` is there."""
        if self._running:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False


def read_rows(run_dir: str | os.PathLike) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; lines that are none, such as a half-written last one, are left
    out.
    """
    path = Path(run_dir) / "metrics.jsonl"
    rows = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            row = parse_json(line)
            if has_shape(row, {"step": int, "*": int | float | None}):
                rows.append(row)
    return rows


def memory() -> dict[str, int]:
    """The most that was in use so far: of the first device, or, where it doesn't tell (CPU), of the
    process.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return {"device_peak_bytes": stats["peak_bytes_in_use"]}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"process_peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def _cut(path: Path, last: int) -> str:
    """Rewrites metrics.jsonl with one row per step up to `last`; returns what was wrong with them,
    or "".
    """
    rows = [row for row in read_rows(path.parent) if 1 <= row["step"] <= last]
    counts = Counter(row["step"] for row in rows)
    if path.exists():
        kept = {row["step"]: row for row in rows}  # of doubled rows the last one
        write_text(path, "".join(json.dumps(kept[step]) + "\n" for step in sorted(kept)))
    missing = [step for step in range(1, last + 1) if step not in counts]
    doubled = [step for step in sorted(counts) if counts[step] > 1]
    faults = [f"has no rows of steps {_ranges(missing)}"] if missing else []
    faults += [f"had several of steps {_ranges(doubled)} (the last are kept)"] if doubled else []
    return " and ".join(faults)


def _ranges(steps: Iterable[int]) -> str:
    """[1, 2, 3, 7] -> "1-3, 7"."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and runs[-1][1] == step - 1:
            runs[-1][1] = step
        else:
            runs.append([step, step])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _write_events(writer: RecordWriter, *events: Event) -> None:
    for event in events:
        event.wall_time = time.time()
        writer.write(event.SerializeToString())
    writer.flush()


def add_scalars(run_dir: str | os.PathLike, points: Mapping[int, Mapping[str, float]]) -> None:
    """TensorBoard scalars by step, beside those of training, in a file of their own; metrics.jsonl
    stays as it is.

    All of them at once: a second file of the same second would have the name of the first.
    """
    with SummaryWriter(str(run_dir), filename_suffix=".eval") as events:
        for step, values in points.items():
            for tag, value in values.items():
                events.add_scalar(tag, value, step)
