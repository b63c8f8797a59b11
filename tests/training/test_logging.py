"""Numbers on their way from the device to metrics.jsonl and TensorBoard."""

import json
import math

import jax.numpy as jnp
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import api_pb2, list_session_groups, plugin_data_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboardX import SummaryWriter, summary

from seqarch.errors import UserError
from seqarch.runtime.trackers import tags
from seqarch.runtime.trackers.tensorboard import HPARAMS_FILE
from seqarch.training.logging import Logger, read_rows, trained_seconds
from seqarch.training.meter import Meter
from seqarch.training.metrics import METRICS
from seqarch.training.profile import Profile

TAGS = tags(METRICS)


def row(step: int, loss: float = 1.0) -> dict:
    return dict(step=step, loss=loss)


def lines(directory) -> list[dict]:
    text = (directory / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def events(directory) -> EventAccumulator:
    accumulator = EventAccumulator(str(directory), size_guidance={"tensors": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def test_the_same_numbers_go_to_both(tmp_path):
    with Logger(tmp_path) as logger:
        for step in (1, 2):
            logger.log(row(step, step / 4) | dict(tokens_per_s=5.0, process_peak_rss_bytes=7))
    assert lines(tmp_path) == read_rows(tmp_path)
    assert [line["loss"] for line in lines(tmp_path)] == [0.25, 0.5]
    scalars = events(tmp_path)
    assert set(scalars.Tags()["scalars"]) == {
        TAGS["loss"],
        TAGS["tokens_per_s"],
        TAGS["process_peak_rss_bytes"],
    }
    assert [(event.step, event.value) for event in scalars.Scalars(TAGS["loss"])] == [
        (1, 0.25),
        (2, 0.5),
    ]


def test_training_and_validation_share_a_chart(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log(row(1, 0.5) | dict(bits_per_byte=1.5, tokens_per_s=5.0))
    (event,) = events(tmp_path).Tensors("custom_scalars__config__")
    found = Layout.FromString(event.tensor_proto.string_val[0])
    (category,) = found.category
    assert {chart.title: list(chart.multiline.tag) for chart in category.chart} == {
        "loss": [TAGS["loss"], TAGS["validation_loss"]],
        "bits per byte": [TAGS["bits_per_byte"], TAGS["validation_bits_per_byte"]],
    }


def test_what_is_not_finite_is_null(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log(row(1, math.nan) | dict(grad_norm=math.inf))
    assert lines(tmp_path) == [dict(step=1, loss=None, grad_norm=None)]


def test_a_new_start_cuts_off_what_lies_beyond_it_and_a_half_written_line(tmp_path):
    with Logger(tmp_path) as logger:
        for step in range(1, 6):
            logger.log(row(step))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with Logger(tmp_path, start=3) as logger:
        logger.log(row(4, 2.0))
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [
        (1, 1.0),
        (2, 1.0),
        (3, 1.0),
        (4, 2.0),
    ]
    assert [(event.step, event.value) for event in events(tmp_path).Scalars(TAGS["loss"])][3:] == [
        (4, 2.0)
    ]


def test_a_line_that_is_no_row_takes_no_other_along(tmp_path):
    with Logger(tmp_path) as logger:
        for step in range(1, 4):
            logger.log(row(step))
    first, *rest = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_bytes(
        b"\0\xff\n" + first + b"3\n" + b"{}\n" + b"".join(rest)
    )
    with Logger(tmp_path, start=2):
        pass
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


@pytest.mark.parametrize(
    "steps, said",
    [
        (range(1, 8), ""),
        (None, "has no rows of steps 1-6"),
        ([1, 2, 5, 6, 7], "has no rows of steps 3-4"),
        (
            [1, 2, 3, 3, 4, 2, 3, 6],
            "has no rows of steps 5 and had several of steps 2-3 (the last are kept)",
        ),
    ],
)
def test_rows_that_are_missing_or_doubled_are_told_in_one_line(tmp_path, steps, said):
    with Logger(tmp_path) as logger:
        for loss, step in enumerate(steps or []):
            logger.log(row(step, float(loss)))
    if steps is None:
        (tmp_path / "metrics.jsonl").unlink()
    told = []
    with Logger(tmp_path, start=6, say=told.append):
        pass
    assert [line.partition("metrics.jsonl ")[2].partition(";")[0] for line in told] == [
        said
    ] * bool(said)
    last = {step: row(step, float(loss)) for loss, step in enumerate(steps or []) if step <= 6}
    assert lines(tmp_path) == [last[step] for step in sorted(last)]


def test_a_process_that_does_not_write_leaves_no_file(tmp_path):
    with Logger(tmp_path, write=False) as logger:
        logger.log(row(1))
        logger.texts({"config": {}})
        logger.hparams({"lr": 1.0})
    assert not list(tmp_path.iterdir())


def hparams(directory) -> list[tuple[str, float, int]]:
    """The rows of TensorBoard's HParams tab, from its own backend: run, steps and status."""
    runs = EventMultiplexer().AddRunsFromDirectory(str(directory))
    runs.Reload()
    data = MultiplexerDataProvider(runs, str(directory))
    context = Context(TBContext(data_provider=data, logdir=str(directory)))
    request = api_pb2.ListSessionGroupsRequest(slice_size=9, allowed_statuses=[0, 1, 2, 3])
    request.col_params.add(hparam="steps")
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run()
    rows = []
    for group in groups.session_groups:
        (session,) = group.sessions
        rows.append((session.name, group.hparams["steps"].number_value, session.status))
    return rows


def test_texts_stand_in_the_run_itself(tmp_path):
    with Logger(tmp_path) as logger:
        logger.texts({"config": {"optim": {"lr": 1e-3}}})
        logger.hparams({"optim.lr": 1e-3, "model.mixer": "gru", "eval.contexts": [1, 2]})
    assert "config/text_summary" in events(tmp_path).Tags()["tensors"]
    assert all(path.is_file() for path in tmp_path.iterdir())


def test_tensorboard_shows_the_hyper_parameters_of_the_last_start(tmp_path):
    run, success = tmp_path / "run", api_pb2.STATUS_SUCCESS
    run.mkdir()
    with SummaryWriter(str(run), filename_suffix=".0") as old:  # as an older revision wrote them
        for part in summary.hparams({"steps": 1}, {}):
            old.file_writer.add_summary(part)
    for start, steps in ((0, 2), (2, 4)):
        with Logger(run, start) as logger:
            logger.hparams({"steps": steps, "model.mixer": "gru"})
            for step in range(start + 1, steps + 1):
                logger.log(row(step, float(step)))
        assert hparams(tmp_path) == [("run", steps, success)]
    with pytest.raises(KeyError), Logger(run, 4) as logger:
        logger.hparams({"steps": 6})
        raise KeyError
    assert b"session_end_info" not in (run / HPARAMS_FILE).read_bytes()
    assert hparams(tmp_path)[0][:2] == ("run", 6)
    losses = [(event.step, event.value) for event in events(run).Scalars(TAGS["loss"])]
    assert losses == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]


def test_hyper_parameters_begin_with_what_matters_most(tmp_path):
    """TensorBoard sorts its columns by name; what it shows is the display name."""
    given = {"batch": 4, "model.dim": 8, "model.layers": 1, "model.mixer": "gru", "optim.lr": 1e-3}
    with Logger(tmp_path) as logger:
        logger.hparams(given)
    tags = events(tmp_path).SummaryMetadata("_hparams_/experiment").plugin_data.content
    columns = plugin_data_pb2.HParamsPluginData.FromString(tags).experiment.hparam_infos
    shown = [each.display_name for each in sorted(columns, key=lambda each: each.name)]
    assert shown == ["model.mixer", "model.dim", "model.layers", "optim.lr", "batch"]


def test_tags_stand_in_the_order_of_the_table():
    assert list(TAGS.values())[:3] == [
        "1_train/loss", "1_train/bits_per_byte", "1_train/accuracy"
    ]  # fmt: skip
    groups = list(dict.fromkeys(tag.partition("/")[0] for tag in TAGS.values()))
    assert groups == sorted(groups) and len(set(TAGS.values())) == len(METRICS)


def test_a_curve_says_what_it_is(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log(row(1))
    metadata = events(tmp_path).SummaryMetadata(TAGS["loss"])
    assert metadata.summary_description == f"{METRICS['loss'].help} (nats per token)"


def test_an_unknown_metric_is_refused_before_anything_is_written(tmp_path):
    with (
        Logger(tmp_path) as logger,
        pytest.raises(UserError, match="unknown training metric 'lossy'; did you mean 'loss'"),
    ):
        logger.log(row(1) | dict(lossy=1.0))
    assert lines(tmp_path) == []


def test_the_log_is_written_without_any_tracker(tmp_path):
    with Logger(tmp_path, trackers=()) as logger:
        logger.log(row(1))
        logger.hparams({"steps": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_profile_is_written_on_request_only(tmp_path):
    for first in (0, 2):
        profile = Profile(tmp_path, first)
        for step in (1, 2, 3):
            profile.before(step, jnp.zeros(1))
            profile.after(step, jnp.ones(1))
        profile.stop(jnp.ones(1))
        assert bool(list(tmp_path.rglob("*.xplane.pb"))) == bool(first)


def test_the_meter_returns_each_block_after_the_first_step_of_the_next():
    meter, seen = Meter(tokens=8, flops=16.0, tokens_per_byte=0.25), []
    for step in range(1, 8):
        one = range(step, step + 1)
        (rows,) = meter.add(one, dict(loss=jnp.float32(step)), ends_block=step % 3 == 0)
        seen.append([row["step"] for row in rows])
    assert seen == [[], [], [], [1, 2, 3], [], [], [4, 5, 6]]
    ((last,),) = meter.drain()
    assert (
        last["step"] == 7
        and last["loss"] == 7.0
        and math.isclose(last["bits_per_byte"], 7 / 4 / math.log(2))
    )
    assert math.isclose(last["tokens_per_s"] * last["step_seconds"], 8)
    assert math.isclose(last["model_flops_per_s"] * last["step_seconds"], 16)
    assert meter.drain() == [[]]


def test_the_meter_does_not_count_what_came_before_a_restart(monkeypatch):
    now = iter([0.0, 100.0, 101.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    meter = Meter(tokens=8, flops=16.0, tokens_per_byte=0.25)
    meter.restart()
    meter.add(range(1, 2), dict(loss=jnp.float32(0)), ends_block=False)
    meter.add(range(2, 3), dict(loss=jnp.float32(0)), ends_block=True)
    assert [row["step_seconds"] for row in meter.drain()[0]] == [0.5, 0.5]


@pytest.mark.parametrize("peak, utilisation", [(128.0, dict(mfu=0.25)), (None, {})])
def test_mfu_is_the_share_of_a_known_peak(monkeypatch, peak, utilisation):
    now = iter([0.0, 1.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    meter = Meter(tokens=8, flops=16.0, tokens_per_byte=0.25, peak=peak)
    for step in (1, 2):
        meter.add(range(step, step + 1), dict(loss=jnp.float32(0)), ends_block=step == 2)
    for row in meter.drain()[0]:
        assert row["model_flops_per_s"] == 32.0
        assert {name: row[name] for name in row if name == "mfu"} == utilisation


def test_the_meter_makes_a_row_for_each_step_of_a_dispatch():
    """Arrays are as long as the longest dispatch; what lies beyond the steps is no row."""
    meter = Meter(tokens=8, flops=16.0, tokens_per_byte=None)
    meter.add(range(1, 4), dict(loss=jnp.array([1.0, 2.0, 3.0, 9.0])), ends_block=False)
    meter.add(range(4, 6), dict(loss=jnp.array([4.0, 5.0, 9.0, 9.0])), ends_block=True)
    (rows,) = meter.add(range(6, 7), dict(loss=jnp.zeros(4)), ends_block=False)
    assert [(row["step"], row["loss"]) for row in rows] == [(n, float(n)) for n in range(1, 6)]
    assert len({row["step_seconds"] for row in rows}) == 1


def test_the_meter_gives_members_equal_parts_of_the_time(monkeypatch):
    now = iter([0.0, 12.0, 20.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    meter = Meter(tokens=8, flops=16.0, tokens_per_byte=None, members=2)
    losses = jnp.array([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]])
    meter.add(range(1, 3), dict(loss=losses), ends_block=True)
    rows = meter.drain()
    assert [[row["loss"] for row in each] for each in rows] == [[1.0, 2.0], [3.0, 4.0]]
    assert rows[0][0]["step_seconds"] == rows[1][1]["step_seconds"] == 3.0
    meter.sharing = 1  # the other has ended
    meter.add(range(3, 5), dict(loss=losses), ends_block=True)
    assert meter.drain()[0][0]["step_seconds"] == 4.0


def test_the_time_of_training_is_that_of_all_steps(tmp_path):
    assert trained_seconds(tmp_path) is None
    with Logger(tmp_path, trackers=()) as logger:
        for step in (1, 2):
            logger.log(dict(step=step, loss=0.0, step_seconds=1.5))
    assert trained_seconds(tmp_path) == 3.0
    with Logger(tmp_path, start=2, trackers=()) as logger:
        logger.log(dict(step=3, loss=0.0))
    assert trained_seconds(tmp_path) is None


def test_mfu_is_shown_with_the_speeds(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log(row(1) | dict(mfu=0.25))
    assert set(events(tmp_path).Tags()["scalars"]) == {TAGS["loss"], TAGS["mfu"]}
