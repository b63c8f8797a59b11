"""Steps that share a dispatch: where it ends, and that its end changes no bit."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from configs import probes
from seqarch.config import CheckpointConfig, Config, EvalConfig, parse, resolve
from seqarch.tasks import make_task
from seqarch.training import sharded_step, sharding
from seqarch.training.dispatch import MOST, SMALL, Dispatcher, end_of_dispatch, most_steps
from seqarch.training.state import hyper

EVERY = Config(
    steps=100, log_every=10, checkpoint=CheckpointConfig(every=25), eval=EvalConfig(every=0)
)


@pytest.mark.parametrize(
    "before, most, profile, last",
    [
        (0, 16, 0, 10),
        (13, 16, 0, 20),
        (20, 16, 0, 25),
        (20, 3, 0, 23),
        (95, 16, 0, 100),
        (30, 16, 34, 33),
        (33, 16, 34, 38),
        (38, 16, 34, 40),
        (0, 16, 1, 5),
        (7, 1, 0, 8),
    ],
)
def test_a_dispatch_ends_where_something_is_due(before, most, profile, last):
    config = dataclasses.replace(EVERY, profile=profile)
    assert end_of_dispatch(config, before, most) == last


def test_only_small_steps_share_a_dispatch():
    parameters = SMALL // (EVERY.batch * EVERY.length)
    assert most_steps(EVERY, parameters) == MOST
    assert most_steps(EVERY, parameters + 1) == 1


@pytest.mark.slow
def test_the_bits_of_steps_do_not_depend_on_where_dispatches_end():
    given = probes.get_config("mqar(pairs=2,length=16,vocab=16),gru")
    given.update_from_flattened_dict(
        {"steps": 5, "batch": 4, "model.dim": 8, "model.layers": 1, "optim.warmup": 1}
    )
    config = parse(given)
    mesh = sharding.make_mesh(config.mesh)
    config, scalars = resolve(config, mesh), hyper(parse(given))
    rows = list(itertools.islice(make_task(config).batches("train", seed=0, batch=4), 5))
    dispatcher = Dispatcher(config, mesh)
    dispatcher.compile(scalars)

    def train(*sizes):
        state = sharded_step.init_state(config, mesh, jax.random.key(0))
        done, losses = 0, []
        for size in sizes:
            batch = dispatcher.put([rows[done : done + size]])
            state, metrics = dispatcher.run(state, batch, scalars, [size])
            losses += metrics["loss"].tolist()[:size]
            done += size
        return state, losses

    whole, losses = train(5)
    for sizes in ((1, 4), (2, 2, 1)):
        state, found = train(*sizes)
        assert found == losses
        jax.tree.map(np.testing.assert_array_equal, state, whole)

    alone = sharded_step.init_state(config, mesh, jax.random.key(0))
    for row in rows:
        alone, metrics = dispatcher.train_step(alone, sharding.put_batch(row, mesh), scalars)
    assert losses[-1] == pytest.approx(float(metrics["loss"]), rel=1e-5)
    assert int(whole.step) == int(alone.step) == 5
