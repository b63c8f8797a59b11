"""The cases of whole models: train steps, decoding, compilation and generation.

GROUPS holds all groups, also those of ops, mixers, sweeps and peers.
"""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.cases import Case, Ready, Sizes, is_constant, mixer_cases, options_of, planned
from benchmarks.families import decay_cases, family_cases, seen_cases
from benchmarks.newton import newton_cases
from benchmarks.ops import OPS, op_cases
from benchmarks.peers import peer_cases
from benchmarks.sweeps import sweep_cases
from seqarch import decoding
from seqarch.config import Config, MeshConfig, ModelConfig, resolve
from seqarch.costs.programs import DECODED, decode_loop_program, prefill_program, train_program
from seqarch.mixers import MIXERS
from seqarch.model import LanguageModel
from seqarch.tasks.batch import Batch
from seqarch.training.sharded_step import init_state
from seqarch.training.sharding import make_mesh
from seqarch.training.state import hyper

SEGMENT = 4096  # tokens of a prompt that are read at once on the way to a long context
DEEP = ("mamba", "mamba", "attention")  # the pattern whose depth is varied


def _decoding_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """Decoding of DECODED tokens that end at the context, after a prefill of those before.

    The model has one layer and no MLP.
    """

    def start(name: str, filled: int, slots: int) -> Ready:
        model = _one_layer(name, sizes)
        prompt = np.random.default_rng(0).integers(0, 256, filled - DECODED)
        logits, states = decoding.prefill(
            model, [prompt], model.init_state(1, slots), segment=SEGMENT
        )
        at = decoding.Decoding(logits, states, jnp.zeros(1, bool))
        compiled = decode_loop_program(model, 1, slots).compile()
        run = lambda at: compiled(model, at, jax.random.key(0))
        return planned(compiled)._replace(run=run, prepare=lambda: jax.tree.map(jnp.copy, at))

    cases = []
    for name in MIXERS:
        full = [(n, n) for n in sizes.contexts]
        for filled, slots in full if is_constant(name, sizes) else sizes.caches:
            begin = partial(start, name, filled, slots)
            cases.append(Case("decoding", name, f"{filled} of {slots}", "token", begin, DECODED))
    yield cases


def _generation_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """The larger plan of a prefill's segment and a decoding loop, with states for the prompt."""

    def start(name: str, prompt: int) -> Ready:
        model = _one_layer(name, sizes)
        slots = prompt + DECODED
        prefill = prefill_program(model, 1, min(512, prompt), slots)
        decode = decode_loop_program(model, 1, slots)
        plans = [planned(program.compile(run=False)) for program in (prefill, decode)]
        return max(plans, key=lambda plan: plan.total)

    yield [
        Case("generation", name, f"prompt {n}", "plan", partial(start, name, n))
        for name in MIXERS
        for n in sizes.prompts
    ]


def _one_layer(name: str, sizes: Sizes) -> LanguageModel:
    options = ",".join(f"{key}={value}" for key, value in options_of(name, sizes))
    config = ModelConfig(f"{name}({options})", layers=1, dim=sizes.dim, mlp=0)
    return LanguageModel(config, rngs=nnx.Rngs(0)).serving()


def train_config(mixer: str, layers: int, sizes: Sizes) -> Config:
    """Returns the config of a model whose train step is measured."""
    B, T = sizes.train
    model = ModelConfig(mixer, layers=layers, dim=sizes.dim, mlp=2 * sizes.dim)
    return Config(batch=B, length=T, model=model)


def _mesh() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(), jax.devices()[:1])


def train_step_case(name: str, sizes: Sizes) -> Case:
    """Returns a train step with its optimizer, of two layers with MLPs, on one device."""

    def start() -> Ready:
        config, mesh = train_config(name, 2, sizes), _mesh()
        shape = config.batch, config.length + 1
        tokens = np.random.default_rng(0).integers(0, 256, shape, np.int32)
        starts, weights = np.zeros(sizes.train, bool), np.ones(sizes.train, np.float32)
        batch = Batch(tokens[:, :-1], tokens[:, 1:], starts, weights)
        config = resolve(config, mesh)
        state = init_state(config, mesh, jax.random.key(0))
        compiled = train_program(config, mesh).compile()
        run = lambda state: compiled(state, batch, hyper(config))
        return planned(compiled)._replace(run=run, prepare=lambda: jax.tree.map(jnp.copy, state))

    B, T = sizes.train
    return Case("train_step", name, f"B{B} T{T}", "train", start)


def _train_step_cases(sizes: Sizes) -> Iterator[list[Case]]:
    yield [train_step_case(name, sizes) for name in MIXERS]


def _compile_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """Tracing, lowering and compiling of a train step, each time anew, by depth."""

    def start(layers: int) -> Ready:
        config = train_config(",".join(DEEP), layers, sizes)
        prepare = lambda: train_program(config, _mesh())
        return Ready(lambda program: program.compile() and None, prepare)

    yield [
        Case("compile", f"{n} layers", "train step", "compile", partial(start, n))
        for n in sizes.depths
    ]


GROUPS: dict[str, Callable[[Sizes], Iterator[list[Case]]]] = {
    **{name: partial(op_cases, name) for name in OPS},
    "mixers": mixer_cases,
    "decays": decay_cases,
    "families": family_cases,
    "seen": seen_cases,
    "newton": newton_cases,
    "train_step": _train_step_cases,
    "decoding": _decoding_cases,
    "compile": _compile_cases,
    "generation": _generation_cases,
    "sweep": sweep_cases,
    "peers": peer_cases,
}
