"""MAD's protocol has the runs of its source, and every one is a task that can be made."""

import pytest

from configs.sweeps import mad
from seqarch.config import parse
from seqarch.errors import UserError
from seqarch.sweep import hyper
from seqarch.sweep.plan import plan
from seqarch.tasks import make_task


@pytest.mark.parametrize(
    "task, runs", list(zip(mad.TASKS, (66, 66, 84, 78, 36), strict=True)), ids=mad.TASKS
)
def test_every_task_has_its_difficulties(task, runs, tmp_path):
    argument = f"{task},gru"
    found = mad.get_hyper(hyper, argument)
    planned = plan(parse(mad.get_config(argument)), found, tmp_path, "test", ("accuracy",))
    assert len(planned) == runs
    for each in planned:
        rows = make_task(each.config).training_rows
        assert each.config.steps == 200 * -(-rows // 128) and each.config.batch == 128
    assert len({each.config.task for each in planned}) == runs / 6


def test_another_task_is_refused():
    with pytest.raises(UserError, match="unknown task of MAD 'parity'"):
        mad.get_config("parity,gru")
