"""Devices: the table of axes, what is refused, and that sharded training is training."""

import dataclasses
import json
import math
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

from seqarch.config import Config, MeshConfig, ModelConfig, OptimConfig, to_dict
from seqarch.errors import UserError
from seqarch.generate import generate
from seqarch.mixers import MIXERS
from seqarch.sampling import Sampling
from seqarch.tasks.batch import Batch
from seqarch.training import serving, sharded_step, sharding
from seqarch.training.checkpoint import Checkpointer, named
from seqarch.training.digest import digests
from seqarch.training.loading import load_model
from seqarch.training.state import TrainState, hyper, make_init

TINY = ModelConfig(mixer="mamba,attention", layers=2, dim=32, mlp=32)
CONFIG = Config(steps=4, batch=8, length=16, model=TINY, optim=OptimConfig(warmup=1, accumulate=2))


def train_on(mesh: jax.sharding.Mesh) -> dict:
    """Losses of four steps, bytes of parameters and moments that the first device holds before and
    after, collectives.
    """
    tokens = np.random.default_rng(0).integers(
        0, 257, (CONFIG.steps, CONFIG.batch, CONFIG.length + 1), dtype=np.int32
    )
    held = lambda tree: sum(
        leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree)
    )
    abstract = (
        sharded_step.abstract_state(CONFIG, mesh),
        sharded_step.abstract_batch(CONFIG, mesh),
        hyper(CONFIG),
    )
    step = sharded_step.jit_train_step(CONFIG, mesh).lower(*abstract).compile()
    state = sharded_step.init_state(CONFIG, mesh, jax.random.key(0))
    losses, sizes = [], [[held(state.model), held(state.opt_state)]]
    for row in tokens:
        rows = Batch(
            row[:, :-1], row[:, 1:], row[:, :-1] == 256, np.ones(row[:, 1:].shape, np.float32)
        )
        state, metrics = step(state, sharding.put_batch(rows, mesh), hyper(CONFIG))
        losses.append(float(metrics["loss"]))
    sizes.append([held(state.model), held(state.opt_state)])
    gathered = re.findall(r"= f32(\[[\d,]*\])\S* all-gather\(", step.as_text())
    return dict(losses=losses, sizes=sizes, digests=same_digests(state), gathered=gathered)


def same_digests(state: TrainState) -> bool:
    """Whether the digests of the arrays as they lie and of their copies on one device are the
    same.
    """
    arrays = named(state)
    return digests(arrays) == digests(jax.device_put(arrays, jax.devices()[0]))


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict:
    """What `main` prints in a process with four devices."""
    run = tmp_path_factory.mktemp("run")
    code = f"from tests.training import test_sharding; test_sharding.main({str(run)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "4"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def main(run: str) -> None:
    meshes = [sharding.make_mesh(MeshConfig(), jax.devices()[:count]) for count in (1, 2)]
    found = dict(trained=[train_on(mesh) for mesh in meshes], generated=generate_on(run))
    print(json.dumps(found | dict(in_loops=collectives_in_loops(meshes[1]))))


@pytest.mark.slow
def test_two_devices_with_fsdp_train_to_the_losses_of_one_and_share_the_parameters(measured):
    one, two = measured["trained"]
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-5)
    assert one["losses"][-1] < one["losses"][0]
    assert one["digests"] and two["digests"]
    assert np.max(np.array(two["sizes"]) / np.array(one["sizes"])) < 0.6
    assert two["gathered"] and not one["gathered"]
    micro_batch = f"[{CONFIG.batch // CONFIG.optim.accumulate},{CONFIG.length},"
    assert not [shape for shape in two["gathered"] if shape.startswith(micro_batch)], (
        "gathers activations, not parameters"
    )


def generate_on(run: str) -> list[dict]:
    """Texts, and bytes of the model and of a cache that a device holds, of one device and four."""
    Path(run, "config.json").write_text(json.dumps(to_dict(CONFIG)))
    whole = sharding.make_mesh(MeshConfig(), jax.devices()[:1])
    with Checkpointer(Path(run, "checkpoints")) as checkpoints:
        checkpoints.save(sharded_step.init_state(CONFIG, whole, jax.random.key(0)))
    found = {}
    for count in (1, 4):
        mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=-1), jax.devices()[:count])
        model = serving.serve(load_model(run, mesh=mesh)[1], mesh)
        held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(model))
        states = serving.init_states(model, 1, 64)
        cache = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(states))
        options = dict(steps=12, key=jax.random.key(1), sampling=Sampling(temperature=0.0))
        texts = [row.tolist() for row in generate(model, [list(b"To be"), [], [7]], **options)]
        found[count] = dict(texts=texts, held=held, cache=cache)
    return [found[1], found[4]]


@pytest.mark.slow
def test_four_devices_share_the_model_and_generate_the_text_of_one(measured):
    one, four = measured["generated"]
    assert four["texts"] == one["texts"] and len(one["texts"][0]) == 12
    assert four["held"] < 0.4 * one["held"] and four["cache"] < 0.5 * one["cache"]


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
    specs = {
        name: (leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf).spec
        for name, leaf in found.items()
    }
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
    every = dataclasses.replace(
        CONFIG, model=dataclasses.replace(TINY, mixer=",".join(MIXERS), layers=len(MIXERS))
    )
    model = sharded_step.abstract_state(every, mesh).model
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        model, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    ):
        axes = leaf.get_metadata().get("axes")
        assert axes is not None and len(axes) <= leaf.get_value().ndim, jax.tree_util.keystr(path)


EIGHT = jax.sharding.AbstractMesh((1, 8), ("data", "fsdp"))


def split_by_parameter(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """Elements of every parameter and moment, and those that one of eight devices holds."""
    state = jax.eval_shape(make_init(dataclasses.replace(CONFIG, model=config)), jax.random.key(0))
    where = sharding.shardings(state, EIGHT)
    local = jax.tree.map(lambda leaf, where: math.prod(where.shard_shape(leaf.shape)), state, where)
    return {
        name: (leaf.size, held)
        for (name, leaf), held in zip(named(state).items(), jax.tree.leaves(local))
    }


@pytest.mark.parametrize("mixer", [*MIXERS, "mamba,gru,attention(kv_heads=1)"])
def test_every_large_parameter_is_split(mixer):
    config = ModelConfig(mixer=mixer, layers=3, dim=512, mlp=1024, conv=4)
    large = {
        name: sizes
        for name, sizes in split_by_parameter(config).items()
        if sizes[0] >= 3 * sharding.LARGE
    }
    assert large and all(size == 8 * held for size, held in large.values()), large


def test_devices_share_a_large_gru_evenly():
    sizes = split_by_parameter(ModelConfig(mixer="gru", layers=24, dim=2048, mlp=0))
    total, held = (sum(column) for column in zip(*sizes.values()))
    assert 4 * total > 7 << 30 and held < 1.01 * total / 8


def test_a_large_parameter_that_nothing_divides_is_named():
    tree = nnx.Dict(
        odd=nnx.Param(jax.ShapeDtypeStruct((3, 257, 301), np.float32), axes=("vocab", "inner"))
    )
    assert sharding.replicated(tree, EIGHT) == ["odd [3, 257, 301]"]
    assert sharding.replicated(tree, jax.sharding.AbstractMesh((8, 1), ("data", "fsdp"))) == []


@pytest.mark.slow
def test_a_gru_gathers_its_recurrent_matrix_before_its_loop(measured):
    assert measured["in_loops"] == []


def collectives_in_loops(mesh: jax.sharding.Mesh) -> list[str]:
    """The collectives that a GRU's train step has in loops over tokens, of which there should be
    none.
    """
    config = dataclasses.replace(
        CONFIG, model=ModelConfig(mixer="gru", layers=1, dim=256, mlp=0), optim=OptimConfig()
    )
    arguments = (
        sharded_step.abstract_state(config, mesh),
        sharded_step.abstract_batch(config, mesh),
        hyper(config),
    )
    text = sharded_step.jit_train_step(config, mesh).lower(*arguments).compile().as_text()
    of_loops = set(re.findall(r"body=%?([\w.-]+)", text))
    found, inside = [], ""
    for line in text.splitlines():
        inside = match[1] if (match := re.match(r"%?([\w.-]+) \(", line)) else inside
        collective = re.search(
            r"(all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)\(", line
        )
        if collective and inside in of_loops:
            found.append(f"{inside}: {collective[1]}")
    return found


class Described:
    """A device as a topology describes it."""

    def __init__(self, index: int, slice_index: int):
        self.id, self.slice_index, self.process_index = index, slice_index, slice_index
        self.platform, self.device_kind = "gpu", "NVIDIA H100 80GB HBM3"

    def __repr__(self) -> str:
        return f"{self.slice_index}:{self.id}"


@pytest.mark.parametrize(
    "sizes, expected",
    [
        ((2, -1), [[0, 0, 0, 0], [1, 1, 1, 1]]),  # a replica to a slice
        ((1, -1), [[0, 0, 0, 0, 1, 1, 1, 1]]),  # parameters split across both
        ((4, -1), [[0, 0], [0, 0], [1, 1], [1, 1]]),
        ((-1, 1), [[0]] * 4 + [[1]] * 4),
    ],
)
def test_neighbours_in_a_mesh_of_two_slices_are_of_one_slice(sizes, expected):
    devices = [
        Described(4 * slice_index + i, slice_index) for slice_index in (1, 0) for i in range(4)
    ]
    mesh = sharding.make_mesh(MeshConfig(*sizes), devices)
    assert [[device.slice_index for device in row] for row in mesh.devices] == expected
    assert len({device.id for device in mesh.devices.flat}) == 8


def test_slices_that_a_mesh_does_not_divide_are_refused():
    devices = [Described(i, i // 2) for i in range(6)]
    with pytest.raises(UserError, match="cannot be laid over 3 slices of"):
        sharding.make_mesh(MeshConfig(2, 3), [*devices[:5], Described(5, 1)])
    assert sharding.make_mesh(MeshConfig(3, 2), devices).shape == {"data": 3, "fsdp": 2}


@pytest.mark.parametrize("sizes", [(2, -1), (3, 1), (-1, -1), (0, -1), (1, 0)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
    with pytest.raises(UserError, match="1 devices"):
        sharding.make_mesh(MeshConfig(*sizes), jax.devices()[:1])


def test_a_batch_that_does_not_divide_is_refused():
    mesh = jax.sharding.AbstractMesh((2, 4), ("data", "fsdp"))
    with pytest.raises(UserError, match="give a batch that is a multiple of 16"):
        sharded_step.abstract_batch(CONFIG, mesh)


def test_splitting_time_is_refused(monkeypatch):
    monkeypatch.setitem(sharding.RULES, "time", "fsdp")
    with pytest.raises(UserError, match="time"):
        sharding.batch_sharding(sharding.make_mesh(MeshConfig(), jax.devices()[:1]))
