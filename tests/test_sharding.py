"""Devices: the table of axes, what is refused, and that sharded training is training."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from seqarch.config import Config, MeshConfig, ModelConfig, OptimConfig
from seqarch.data.loader import Batch
from seqarch.errors import UserError
from seqarch.mixers import MIXERS
from seqarch.training import sharding
from seqarch.training.checkpoint import named
from seqarch.training.digest import digests
from seqarch.training.state import TrainState, hyper

TINY = ModelConfig(mixer="mamba,attention", layers=2, dim=32, mlp=32)
CONFIG = Config(steps=4, batch=8, length=16, model=TINY, optim=OptimConfig(warmup=1, accumulate=2))


def train_on(mesh: jax.sharding.Mesh) -> dict:
    """Losses of four steps, bytes of parameters and moments that the first device holds before and after, collectives."""
    tokens = np.random.default_rng(0).integers(0, 257, (CONFIG.steps, CONFIG.batch, CONFIG.length + 1), dtype=np.int32)
    held = lambda tree: sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))
    abstract = sharding.abstract_state(CONFIG, mesh), sharding.abstract_batch(CONFIG, mesh), hyper(CONFIG)
    step = sharding.jit_train_step(CONFIG, mesh).lower(*abstract).compile()
    state = sharding.init_state(CONFIG, mesh, jax.random.key(0))
    losses, sizes = [], [[held(state.model), held(state.opt_state)]]
    for row in tokens:
        rows = Batch(row[:, :-1], row[:, 1:], row[:, :-1] == 256, np.ones(row[:, 1:].shape, np.float32))
        state, metrics = step(state, sharding.put_batch(rows, mesh), hyper(CONFIG))
        losses.append(float(metrics["loss"]))
    sizes.append([held(state.model), held(state.opt_state)])
    gathered = re.findall(r"= f32(\[[\d,]*\])\S* all-gather\(", step.as_text())
    return dict(losses=losses, sizes=sizes, digests=same_digests(state), gathered=gathered)


def same_digests(state: TrainState) -> bool:
    """Whether the digests of the arrays as they lie and of their copies on one device are the same."""
    arrays = named(state)
    return digests(arrays) == digests(jax.device_put(arrays, jax.devices()[0]))


def main() -> None:
    """What the test below runs in a process with two devices."""
    meshes = [sharding.make_mesh(MeshConfig(), jax.devices()[:count]) for count in (1, 2)]
    print(json.dumps([train_on(mesh) for mesh in meshes]))


def test_two_devices_with_fsdp_train_to_the_losses_of_one_and_share_the_parameters():
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, "-c", "from tests import test_sharding; test_sharding.main()"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-5)
    assert one["losses"][-1] < one["losses"][0]
    assert one["digests"] and two["digests"]
    assert np.max(np.array(two["sizes"]) / np.array(one["sizes"])) < 0.6
    assert two["gathered"] and not one["gathered"]
    micro_batch = f"[{CONFIG.batch // CONFIG.optim.accumulate},{CONFIG.length},"
    assert not [shape for shape in two["gathered"] if shape.startswith(micro_batch)], "gathers activations, not parameters"


def test_axes_map_to_the_mesh_from_the_right_and_each_mesh_axis_once():
    mesh = jax.sharding.AbstractMesh((1, 2), ("data", "fsdp"))
    tree = {
        "stacked": nnx.Param(jax.ShapeDtypeStruct((3, 8, 6), np.float32), axes=("embed", "heads")),
        "square": nnx.Param(jax.ShapeDtypeStruct((8, 8), np.float32), axes=("embed", "embed")),
        "odd": nnx.Param(jax.ShapeDtypeStruct((257, 7), np.float32), axes=("vocab", "embed")),
        "silent": nnx.Param(jax.ShapeDtypeStruct((8,), np.float32)),
        "scalar": jax.ShapeDtypeStruct((), np.int32),
    }
    found = sharding.shardings(tree, mesh)
    specs = {name: (leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf).spec for name, leaf in found.items()}
    assert specs == {
        "stacked": P(None, "fsdp", None),
        "square": P("fsdp", None),
        "odd": P(None, None),
        "silent": P(None),
        "scalar": P(),
    }


def test_an_unknown_axis_is_named():
    mesh = jax.sharding.AbstractMesh((1, 2), ("data", "fsdp"))
    with pytest.raises(UserError, match="'embd'; did you mean 'embed'"):
        sharding.shardings(nnx.Param(jax.ShapeDtypeStruct((8,), np.float32), axes=("embd",)), mesh)


def test_every_parameter_of_every_mixer_names_axes_that_exist():
    mesh = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    every = dataclasses.replace(CONFIG, model=dataclasses.replace(TINY, mixer=",".join(MIXERS), layers=len(MIXERS)))
    model = sharding.abstract_state(every, mesh).model
    for path, leaf in jax.tree_util.tree_leaves_with_path(model, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)):
        axes = leaf.get_metadata().get("axes")
        assert axes is not None and len(axes) <= leaf.get_value().ndim, jax.tree_util.keystr(path)


@pytest.mark.parametrize("sizes", [(2, -1), (3, 1), (-1, -1), (0, -1), (1, 0)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
    with pytest.raises(UserError, match="1 devices"):
        sharding.make_mesh(MeshConfig(*sizes), jax.devices()[:1])


def test_a_batch_that_does_not_divide_is_refused():
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "fsdp"))
    with pytest.raises(UserError, match="give a batch that is a multiple of 16"):
        sharding.abstract_batch(CONFIG, mesh)


def test_splitting_time_is_refused(monkeypatch):
    monkeypatch.setitem(sharding.RULES, "time", "fsdp")
    with pytest.raises(UserError, match="time"):
        sharding.batch_sharding(sharding.make_mesh(MeshConfig(), jax.devices()[:1]))
