"""Memory: what shapes say, what the compiler says and the closed forms agree; what must not grow
does not.
"""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seqarch.config import Config, ModelConfig
from seqarch.costs.compiler import CompiledBytes, compiled_bytes, refused_bytes
from seqarch.costs.memory import elements, measure, state_size, tree_bytes
from seqarch.costs.program import Program
from seqarch.costs.programs import decode_loop_program, prefill_program, programs
from seqarch.errors import UserError
from seqarch.flops import count_flops
from seqarch.model import LanguageModel
from seqarch.training.sharded_step import abstract_state
from seqarch.training.sharding import make_mesh
from tests.conftest import CORE
from tests.grids import slow_but

CONTEXTS = (64, 256, 4096, 1_048_576)
DIM, LAYERS, HEADS = 16, 2, 4
ROW = 257 * 4 + 1  # bytes of the logits of a row and whether it is done


def serving(mixer: str, dtype: str = "float32") -> LanguageModel:
    """Abstract: any size costs nothing."""
    config = ModelConfig(mixer, layers=LAYERS, dim=DIM, mlp=16, dtype=dtype)
    return jax.eval_shape(
        lambda key: LanguageModel(config, rngs=nnx.Rngs(key)).serving(), jax.random.key(0)
    )


def state_bytes(mixer: str) -> list[int]:
    return [state_size(serving(mixer), context).bytes for context in CONTEXTS]


@pytest.mark.parametrize(
    "mixer, elements",
    [
        ("gru", DIM),
        ("linear_attention", HEADS * (DIM // HEADS) * (DIM // HEADS + 1)),
        ("mamba(state_dim=8)", (2 * DIM) * (8 + 4 - 1)),
        ("attention(window=64)", 64 * (2 * DIM + 1) + 1),
        ("attention(window=64,kv_heads=1)", 64 * (2 * DIM // HEADS + 1) + 1),
    ],
)
def test_constant_states_have_their_closed_form_at_every_context(mixer, elements):
    assert state_bytes(mixer) == [LAYERS * elements * 4] * len(CONTEXTS)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_full_cache_grows_by_the_same_bytes_with_every_token(kv_heads):
    token, row = 2 * kv_heads * (DIM // HEADS) + 1, 1
    expected = [LAYERS * 4 * (context * token + row) for context in CONTEXTS]
    assert state_bytes(f"attention(kv_heads={kv_heads})") == expected


def test_a_window_is_a_full_cache_up_to_its_width():
    full, window = (
        state_size(serving(mixer), 48).bytes for mixer in ("attention", "attention(window=64)")
    )
    assert full == window


def test_state_size_names_every_dtype_the_larger_first():
    size = state_size(serving("attention", "bfloat16"), 10)
    assert size.dtypes == "bfloat16+int32"
    assert size.bytes == LAYERS * (10 * (2 * DIM * 2 + 4) + 4)
    assert size.elements == LAYERS * (10 * (2 * DIM + 1) + 1)


def test_bytes_and_elements_of_concrete_and_abstract_arrays():
    tree = {"a": jnp.zeros((2, 3), jnp.bfloat16), "b": jax.ShapeDtypeStruct((5,), jnp.int32)}
    assert (elements(tree), tree_bytes(tree)) == (11, 32)


@pytest.mark.parametrize("donate", [False, True])
def test_compiled_bytes_know_donation(donate):
    """x + 1 needs an array for its result, or writes it over its donated argument."""
    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    compiled = jax.jit(lambda x: x + 1, donate_argnums=0 if donate else ()).lower(x).compile()
    assert compiled_bytes(compiled) == CompiledBytes(
        arguments=4000,
        outputs=4000,
        aliased=4000 * donate,
        temporaries=0,
        total=8000 - 4000 * donate,
        definition="arguments + outputs + temporaries - aliased",
    )


def test_compiled_bytes_count_temporaries():
    """Both products of 100 x 100 must stand while they are multiplied."""
    x = jax.ShapeDtypeStruct((100, 100), jnp.float32)
    measured = compiled_bytes(jax.jit(lambda x: (x @ x) @ (x.T @ x)).lower(x).compile())
    assert measured.temporaries >= 2 * 40_000
    assert measured.total == measured.arguments + measured.outputs + measured.temporaries


@pytest.mark.slow
@pytest.mark.parametrize("mixer", ["gru,mamba", "linear_attention,attention"])
def test_a_decoding_loop_holds_parameters_and_states_and_no_temporaries_that_grow(mixer):
    """To the byte: it is given the model and where decoding stands (no key, being greedy), and ends
    where it began.
    """
    model, contexts = serving(mixer), (512, 4096)
    loops = [
        compiled_bytes(decode_loop_program(model, 1, context).compile()) for context in contexts
    ]
    stands = [state_size(model, context).bytes + ROW for context in contexts]
    assert [loop.arguments for loop in loops] == [tree_bytes(model) + size for size in stands]
    assert [loop.aliased for loop in loops] == stands
    assert loops[0].temporaries == loops[1].temporaries


HYBRID = "linear_attention,attention(kv_heads=2)"


@pytest.mark.parametrize("mixer", slow_but({HYBRID}, ["attention", HYBRID]))
def test_prefill_writes_to_its_cache_and_copies_nothing_of_it(mixer):
    """Documents that begin in the segment included: `generate` gives starts, which empty a row's
    slots.
    """
    model, contexts = serving(mixer), (4096, 65536)
    prefills = [
        compiled_bytes(prefill_program(model, 2, 64, context).compile(run=False))
        for context in contexts
    ]
    assert [prefill.aliased for prefill in prefills] == [
        state_size(model, context, batch=2).bytes for context in contexts
    ]
    assert prefills[0].temporaries == prefills[1].temporaries


def test_prefill_of_constant_states_is_one_program_at_every_context():
    """Its peak does not depend on the length of the prompt."""
    shapes = [
        jax.tree.leaves(prefill_program(serving("gru,mamba"), 1, 64, context).args)
        for context in CONTEXTS
    ]
    assert all(shape == shapes[0] for shape in shapes)


CONFIG = Config(
    batch=2, length=32, model=ModelConfig("gru,attention", layers=LAYERS, dim=DIM, mlp=16)
)


def program_and_bytes(phase: str) -> tuple[Program, CompiledBytes]:
    program = programs(CONFIG, serving(CONFIG.model.mixer), make_mesh(CONFIG.mesh), 64)[phase]
    optimised = {
        "xla_backend_optimization_level": 3,
        "xla_llvm_disable_expensive_passes": False,
    }  # unlike conftest.py
    return program, compiled_bytes(program.fn.trace(*program.args).lower().compile(optimised))


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["train", "prefill", "decode"])
def test_a_program_compiled_only_for_its_memory_needs_what_the_one_that_runs_needs(phase):
    program, needed = program_and_bytes(phase)
    assert compiled_bytes(program.compile(run=False)) == needed


@pytest.mark.slow
def test_train_step_updates_its_state_in_place():
    program = programs(CONFIG, serving(CONFIG.model.mixer), make_mesh(CONFIG.mesh), 64)["train"]
    step = compiled_bytes(program.compile(run=False))
    state = abstract_state(CONFIG, make_mesh(CONFIG.mesh))
    assert step.aliased == tree_bytes(state)
    assert step.total < step.arguments + step.outputs + step.temporaries
    assert tree_bytes(state.opt_state.adam) >= 2 * tree_bytes(state.model)


CLOSED_FORMS = {
    "gru": lambda batch, length: batch * DIM,
    "linear_attention": lambda batch, length: batch * HEADS * (DIM // HEADS) * (DIM // HEADS + 1),
    "mamba": lambda batch, length: batch * (2 * DIM) * (16 + 3),
    "attention": lambda batch, length: batch * (length * (2 * DIM + 1) + 1),
}


@pytest.mark.parametrize("mixer", CORE)
def test_state_bytes_of_shapes_of_the_decoding_loop_and_of_the_closed_form_agree(mixer):
    batch, length = 3, 128
    config = Config(length=length, model=ModelConfig(mixer, layers=LAYERS, dim=DIM, mlp=16))
    loop = measure(config, "decode", batch, length, "local:1")
    expected = state_size(serving(mixer), length, batch).bytes
    assert loop.state == expected
    assert expected == LAYERS * 4 * CLOSED_FORMS[mixer](batch, length)
    assert (
        loop.arguments == loop.parameters + expected + batch * ROW
        and loop.aliased == expected + batch * ROW
    )


def test_measurement_of_training_has_its_parts():
    step = measure(CONFIG, "train", CONFIG.batch, 64, "local:1")
    state = abstract_state(CONFIG, make_mesh(CONFIG.mesh))
    assert step.parameters == step.gradients == tree_bytes(state.model)
    assert (step.optimizer, step.state) == (tree_bytes(state.opt_state), 0)
    program = programs(CONFIG, serving(CONFIG.model.mixer), make_mesh(CONFIG.mesh), 64)["train"]
    assert step.flops == count_flops(program.fn, *program.args).total > 0
    assert step.fits and step.memory > step.total


def test_flops_of_a_decoded_token_have_their_closed_form():
    """Products of one token with the attention's projections, its cache, the MLP and the head; the
    norms and rope beside.
    """
    length, config = 64, Config(model=ModelConfig("attention", layers=1, dim=DIM, mlp=16))
    dots = 2 * (4 * DIM * DIM + 3 * DIM * 16 + DIM * 257) + 4 * length * DIM
    assert dots < measure(config, "decode", 1, length, "local:1").flops < 1.2 * dots


def test_what_libtpu_refuses_is_a_result_and_other_errors_are_not():
    said = "RESOURCE_EXHAUSTED: Ran out of memory, the total memory required for HLO temporaries "
    said += "(136.06G) exceeds available HBM (15.75G)."
    planned = refused_bytes(RuntimeError(said), 1000)
    assert (
        planned.total == int(136.06 * 2**30)
        and planned.arguments + planned.temporaries == planned.total
    )
    with pytest.raises(RuntimeError, match="no tile"):
        refused_bytes(RuntimeError("INTERNAL: no tile"), 0)


@pytest.mark.parametrize(
    "given, said",
    [(("train", 0, 8), "at least 1"), (("decode", 1, 0), "at least 1"), (("serve", 1, 8), "phase")],
)
def test_what_cannot_be_measured_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        measure(CONFIG, *given, "local")
