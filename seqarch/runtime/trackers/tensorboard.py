"""TensorBoard events, in the run's directory; the only module that imports TensorBoard."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter, summary
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from seqarch.errors import printable
from seqarch.runtime.trackers import Scalar, tags

# TensorBoard keeps the first hyper-parameters that it reads of a run, and reads files in the order
# of their names. They are therefore in the first file, which each start replaces.
HPARAMS_FILE = "events.out.tfevents.0.hparams"
# TensorBoard sorts columns by name. These get a number in front, which is not shown.
FIRST_HPARAMS = ("model.mixer", "model.dim", "model.layers", "optim.lr")
RESULTS = 2  # number of metrics, from the first on, that are columns beside the hyper-parameters


class TensorBoard:
    """A tracker whose curves, texts and hyper-parameters `tensorboard --logdir` shows."""

    def __init__(self, run_dir: Path, start: int, metrics: Mapping[str, Scalar]):
        self._run_dir, self._metrics, self._tags = run_dir, metrics, tags(metrics)
        self._hparams: RecordWriter | None = None
        self._end: Summary | None = None
        self._has_layout = False
        # TensorBoard hides what an earlier start logged from purge_step on. The suffix is needed
        # because the time in a file's name has a resolution of a second.
        self._events = SummaryWriter(
            str(run_dir), filename_suffix=f".{start}", purge_step=start + 1
        )

    def log(self, row: Mapping[str, float]) -> None:
        if not self._has_layout:
            self._events.add_custom_scalars(layout(self._tags, row))
            self._has_layout = True
        for name in row.keys() - {"step"}:
            metric = self._metrics[name]
            about = f"{metric.help} ({metric.unit})" if metric.unit else metric.help
            self._events.add_scalar(
                self._tags[name], row[name], row["step"], summary_description=about
            )

    def texts(self, texts: Mapping[str, Any], step: int) -> None:
        for name, value in texts.items():
            self._events.add_text(name, _verbatim(json.dumps(value, indent=2)), step)

    def hparams(self, hparams: Mapping[str, Any]) -> None:
        """Writes the columns of the HParams tab, instead of those of an earlier start.

        `SummaryWriter.add_hparams` would begin a run of its own in a subdirectory.
        """
        experiment, start, self._end = _hparams(hparams, list(self._tags.values())[:RESULTS])
        partial = self._run_dir / "hparams.partial"
        self._hparams = RecordWriter(str(partial))
        events = [Event(summary=each) for each in (experiment, start)]
        _write_events(self._hparams, Event(file_version="brain.Event:2"), *events)
        partial.replace(self._run_dir / HPARAMS_FILE)  # `close` still writes to the open file

    def close(self, success: bool) -> None:
        """Closes the files; `success` is shown in the HParams tab."""
        self._events.close()
        if self._hparams:
            if success:
                _write_events(self._hparams, Event(summary=self._end))
            self._hparams.close()


def add_events(
    run_dir: str | os.PathLike,
    points: Mapping[int, Mapping[str, float]],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Writes scalars and texts into a file of their own beside those of training.

    Write all of them with one call: a second file of the same second would have the same name.

    Args:
      run_dir: the run's directory.
      points: values by tag, by step.
      texts: texts by tag, shown as they are, at the last of the steps.
    """
    with SummaryWriter(str(run_dir), filename_suffix=".eval") as events:
        for step, values in points.items():
            for tag, value in values.items():
                events.add_scalar(tag, value, step)
        for tag, text in (texts or {}).items():
            events.add_text(tag, _verbatim(text), max(points, default=0))


def layout(tags: Mapping[str, str], names: Iterable[str]) -> dict[str, dict[str, list]]:
    """Returns the charts of the tab "Custom Scalars": training and validation in one chart each.

    Args:
      tags: the tag of each metric.
      names: metrics of training; those that no validation metric belongs to have no chart.
    """
    charts = {}
    for name in names:
        if (held_out := f"validation_{name}") in tags:
            charts[name.replace("_", " ")] = ["Multiline", [tags[name], tags[held_out]]]
    return {"training and validation": charts}


def _verbatim(text: str) -> str:
    """Returns Markdown that shows a text as it is."""
    return "\n".join("    " + line for line in text.splitlines())


def _hparams(hparams: Mapping[str, Any], results: list[str]) -> tuple[Summary, Summary, Summary]:
    """Returns the summaries of the experiment, start and end of a run for the HParams plugin."""
    shown, plain = {}, {}
    for name, value in hparams.items():
        key = f"{FIRST_HPARAMS.index(name)}_{name}" if name in FIRST_HPARAMS else name
        shown[key] = name
        plain[key] = value if isinstance(value, (bool, int, float)) else printable(str(value))
    experiment, start, end = summary.hparams(plain, dict.fromkeys(results))
    plugin = experiment.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for info in content.experiment.hparam_infos:
        info.display_name = shown[info.name]
    plugin.content = content.SerializeToString()
    return experiment, start, end


def _write_events(writer: RecordWriter, *events: Event) -> None:
    for event in events:
        event.wall_time = time.time()
        writer.write(event.SerializeToString())
    writer.flush()
