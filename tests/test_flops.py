"""FLOPs: closed forms for matmuls, loops by their trips, gradients and rematerialisation as they
are executed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seqarch.config import ModelConfig
from seqarch.flops import Flops, count_flops
from seqarch.model import LanguageModel
from seqarch.model_flops import _sum_over, forward_flops
from seqarch.ops.attention import FORMS, attention
from seqarch.ops.blockwise import blockwise
from seqarch.ops.numerics import project
from seqarch.ops.visibility import Places, Rule


def shape(*dims: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(dims, dtype)


def test_a_form_of_another_platform_is_not_counted():
    """TPUs compute the product of one row as that of two."""
    flops = count_flops(lambda x, W: project(x, W, jnp.float32), shape(1, 3), shape(3, 5))
    assert flops == Flops(matmul=2 * 3 * 5)


@pytest.mark.parametrize("b, m, k, n", [(1, 1, 1, 1), (2, 3, 5, 7)])
def test_contraction_has_its_closed_form(b, m, k, n):
    flops = count_flops(
        lambda x, y: jnp.einsum("bmk,bkn->bmn", x, y), shape(b, m, k), shape(b, k, n)
    )
    assert flops == Flops(matmul=2 * b * m * k * n)


def test_grouped_convolution_has_its_closed_form():
    """Each of T outputs of each of 8 channels reads 4 taps of the 2 input channels of its group."""

    def conv(x, w):
        numbers = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(
            x, w, (1,), "SAME", dimension_numbers=numbers, feature_group_count=3
        )

    assert count_flops(conv, shape(2, 10, 6), shape(4, 2, 9)).matmul == 2 * (2 * 10 * 9) * (4 * 2)


def test_elements_that_arithmetic_writes_and_reductions_read():
    flops = count_flops(
        lambda x, i: jnp.sum(jnp.tanh(x) * 2.0, axis=1), shape(3, 4), shape(3, dtype=jnp.int32)
    )
    assert flops == Flops(elementwise=3 * 12)


def test_complex_numbers_count_as_the_real_operations_of_their_arithmetic():
    x, y = shape(3, 4, dtype=jnp.complex64), shape(4, 5, dtype=jnp.complex64)
    assert count_flops(lambda x: x * x + x, x) == Flops(elementwise=(6 + 2) * 12)
    assert count_flops(jnp.matmul, x, y) == Flops(matmul=(6 + 2) * 60)


def test_integer_arithmetic_and_movement_are_free():
    assert (
        count_flops(
            lambda i: (i + 1)[::-1].astype(jnp.float32).reshape(2, 2), shape(4, dtype=jnp.int32)
        ).total
        == 0
    )


def test_scatter_add_counts_its_updates():
    flops = count_flops(lambda x, u: x.at[jnp.array([0, 2])].add(u), shape(5, 3), shape(2, 3))
    assert flops == Flops(elementwise=6)


@pytest.mark.parametrize("length", [1, 9])
def test_scan_is_its_body_times_its_length(length):
    def repeated(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=length)[0]

    once = count_flops(lambda x, w: jnp.tanh(x @ w), shape(2, 4), shape(4, 4))
    flops = count_flops(repeated, shape(2, 4), shape(4, 4))
    assert (flops.matmul, flops.elementwise) == (length * once.matmul, length * once.elementwise)


def test_nested_loops_multiply():
    def nested(x):
        outer = lambda _, x: jax.lax.fori_loop(0, 5, lambda _, x: x @ x, x)
        return jax.lax.fori_loop(0, 3, outer, x)

    assert count_flops(nested, shape(4, 4)).matmul == 15 * 2 * 4**3


def test_while_loop_that_counts_to_a_literal():
    def loop(x):
        return jax.lax.while_loop(lambda c: c[0] < 7, lambda c: (c[0] + 1, c[1] @ c[1]), (2, x))[1]

    assert count_flops(loop, shape(4, 4)) == Flops(matmul=5 * 2 * 4**3)


@pytest.mark.parametrize(
    "condition, step",
    [
        (lambda i, x: x.sum() < 7, lambda i: i + 1),
        (lambda i, x: i < 7, lambda i: i + 2),
        (lambda i, x: i < 7, lambda i: i * 2),
    ],
)
def test_while_loop_with_unknown_trips_counts_once_and_says_so(condition, step):
    def loop(x):
        return jax.lax.while_loop(
            lambda c: condition(*c), lambda c: (step(c[0]), c[1] @ c[1]), (1, x)
        )[1]

    flops = count_flops(loop, shape(4, 4))
    assert (flops.matmul, flops.uncounted_loops) == (2 * 4**3, 1)


@pytest.mark.parametrize(
    "transform", [lambda f: f, jax.jit, lambda f: jax.vmap(f, in_axes=(None, 0))]
)
def test_data_dependent_loop_counts_as_its_scope_says(transform):
    def loop(stop, x):
        with jax.named_scope("at_most_6_trips"):
            return jax.lax.fori_loop(0, stop, lambda _, x: x @ x, x)

    flops = count_flops(transform(loop), shape(dtype=jnp.int32), shape(1, 4, 4))
    assert (flops.matmul, flops.uncounted_loops) == (6 * 2 * 4**3, 0)


def test_cond_counts_its_dearest_branch():
    def either(flag, x):
        return jax.lax.cond(flag, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert count_flops(either, shape(dtype=bool), shape(4, 4)).matmul == 2 * 2 * 4**3


@pytest.mark.parametrize(
    "wrap", [jax.jit, jax.checkpoint, lambda f: jax.vmap(f, in_axes=(0, None))]
)
def test_wrappers_change_nothing(wrap):
    f = lambda x, w: jnp.tanh(x @ w)
    assert count_flops(wrap(f), shape(3, 4), shape(4, 5)) == count_flops(
        f, shape(3, 4), shape(4, 5)
    )


def test_dead_results_are_not_counted():
    def f(x):
        _ = x @ x
        return x + 1

    assert count_flops(f, shape(4, 4)) == Flops(elementwise=16)


def two_layers(w, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ w[0]) @ w[1]) ** 2)


def test_gradient_of_matmuls_is_three_times_the_forward_pass():
    args = [shape(4, 4), shape(4, 4)], shape(3, 4)
    forward = count_flops(two_layers, *args).matmul
    assert count_flops(jax.value_and_grad(two_layers, argnums=(0, 1)), *args).matmul == 3 * forward


def test_rematerialisation_counts_again():
    """One forward pass more, under scan as well."""

    def loss(remat):
        body = lambda x, w: (jnp.tanh(x @ w), None)
        body = jax.checkpoint(body) if remat else body
        return lambda w, x: jnp.sum(jax.lax.scan(body, x, w)[0])

    args = shape(6, 4, 4), shape(3, 4)
    forward = count_flops(loss(False), *args).matmul
    plain, remat = (
        count_flops(jax.value_and_grad(loss(r), argnums=(0, 1)), *args).matmul
        for r in (False, True)
    )
    assert (plain, remat) == (3 * forward, 4 * forward)


def test_custom_vjp_counts_the_rule_that_runs():
    @jax.custom_vjp
    def square(x):
        return x @ x

    square.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x @ x,))
    one = 2 * 4**3
    assert count_flops(square, shape(4, 4)).matmul == one
    assert count_flops(jax.value_and_grad(lambda x: square(x).sum()), shape(4, 4)).matmul == 3 * one


@pytest.mark.parametrize("method", FORMS)
def test_every_form_of_attention_counts_its_whole_matrix(method):
    """4 T^2 H K: products with queries and with weights. The loops over blocks say how often they
    may turn.
    """
    t, h, k = 128, 2, 16
    flops = count_flops(lambda q: attention(q, q, q, method=method, block=16), shape(1, t, h, k))
    assert flops.uncounted_loops == 0
    assert 1.0 <= flops.matmul / (4 * t**2 * h * k) < 1.1


@pytest.mark.parametrize(
    "length, window", [(128, None), (100, None), (128, 1), (128, 17), (100, 18), (100, 40)]
)
def test_attention_to_itself_counts_the_blocks_that_it_reads(length, window):
    """For each block of C queries and C keys in which a query sees a key 4 C^2 H K, and 2 C^2 H for
    the denominator.
    """
    c, h, k = 16, 2, 8
    distance = np.arange(length)[:, None] - np.arange(length)
    seen = np.pad((distance >= 0) & (distance < (window or length)), (0, -length % c))
    blocks = seen.reshape(-(-length // c), c, -1, c).any((1, 3)).sum()

    def itself(x):
        at = Places(jnp.arange(length)[None], jnp.zeros((1, length), jnp.int32))
        return blockwise(x, x, x, at, at, Rule(True, window), block=c).o

    x = shape(1, length, h, k)
    forward = count_flops(itself, x).matmul
    assert forward == pytest.approx(blocks * (4 * c**2 * h * k + 2 * c**2 * h))
    both = count_flops(jax.value_and_grad(lambda x: itself(x).sum()), x).matmul
    assert (
        1 <= (both - forward) / (blocks * 10 * c**2 * h * k) < 1.3
    )  # scores again and four gradients; then sums


def test_train_step_of_an_mlp_has_its_closed_form():
    """Forward pass and both gradients of every layer, less the first layer's gradient with respect
    to its input.
    """
    b, d, f, y = 8, 16, 32, 10
    optimizer = optax.sgd(0.1)

    def loss(params, x, targets):
        logits = jnp.tanh(x @ params["in"]) @ params["out"]
        return jnp.mean(jnp.square(logits - targets))

    def step(params, x, targets):
        gradients = jax.grad(loss)(params, x, targets)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    params = {"in": shape(d, f), "out": shape(f, y)}
    flops = count_flops(step, params, shape(b, d), shape(b, y))
    assert flops.matmul == 2 * b * (2 * d * f + 3 * f * y)
    assert flops.uncounted_loops == 0


D, F, Y, T_MODEL = 16, 24, 32, 40


def model_flops(mixer: str, time: int = T_MODEL, scored: int | None = None, **fields) -> Flops:
    config = ModelConfig(mixer=mixer, layers=2, dim=D, mlp=F, vocab=Y, **fields)
    model = jax.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)))
    return forward_flops(model, time, scored)


def projections(per_layer: int, time: int = T_MODEL) -> float:
    """Products of `time` tokens with the parameters of two layers, the MLP's and the head's."""
    norms = (2 * 2 + 1) * (
        2 * D + 2 * D
    )  # RMSNorm's sum of squares and its broadcast are products with ones
    return time * (2 * 2 * (per_layer + 3 * D * F) + 2 * D * Y + norms)


def test_logits_count_at_scored_positions_alone():
    spared = model_flops("gru").matmul - model_flops("gru", scored=3).matmul
    assert spared == (T_MODEL - 3) * (2 * D * Y + 4 * D)  # the head, and the norm before it


@pytest.mark.parametrize("window", [None, 7])
def test_attention_counts_each_visible_pair_once(window):
    pairs = sum(min(t, window or t) for t in range(1, T_MODEL + 1))
    found = model_flops(f"attention(heads=2,kv_heads=1,window={window})").matmul
    normaliser = 2 * 2  # of each pair and head: the sum of its weight
    assert found == pytest.approx(
        projections(3 * D * D) + 2 * pairs * (2 * 2 * D + normaliser), rel=0.01
    )


@pytest.mark.slow
def test_pairs_of_full_attention_grow_with_the_square():
    pairs = [
        model_flops("attention", time).matmul - model_flops("attention", 1).matmul * time
        for time in (64, 128, 256)
    ]
    assert pairs[1] / pairs[0] == pytest.approx(4, rel=0.05) and pairs[2] / pairs[
        1
    ] == pytest.approx(4, rel=0.02)


def test_a_gru_counts_its_products():
    assert model_flops("gru").matmul == projections(3 * D * D + 3 * D * D + D * D)


FORMS_OF = {
    "mamba": (
        "method=sequential",
        "method=associative",
        "method=chunked,chunk=8",
        "method=chunked,chunk=64",
    ),
    "attention": ("method=materialised", "method=blockwise,block=8", "method=tiled,block=512"),
    "linear_attention": ("method=sequential", "method=parallel,chunk=16"),
    "gru": ("method=sequential", "method=recompute"),
}


@pytest.mark.parametrize("mixer", FORMS_OF)
def test_model_flops_do_not_depend_on_the_form(mixer):
    found = {model_flops(f"{mixer}({form})") for form in FORMS_OF[mixer]}
    assert len(found | {model_flops(mixer, remat=True)}) == 1
    assert next(iter(found)).uncounted_loops == 0


@pytest.mark.parametrize("bends", [(), (256,), (64, 300)])
def test_a_sum_over_steps_is_exact_where_they_bend(bends):
    at = lambda t: Flops(3.0 + t + sum(5.0 * max(0, t - bend) for bend in bends), 2.0 * t)
    expected = [sum(column) for column in zip(*(at(t) for t in range(1, 1001)))]
    assert _sum_over(at, 1, 1000)[:2] == pytest.approx(expected[:2])


def test_a_program_of_single_devices_counts_once_for_each():
    mesh = jax.sharding.AbstractMesh((4,), ("rows",))
    spec = jax.sharding.PartitionSpec("rows")
    square = lambda x: x @ x.T

    def apart(x):
        return jax.shard_map(square, mesh=mesh, in_specs=spec, out_specs=spec)(x)

    x = jax.ShapeDtypeStruct((8, 16), jnp.float32)
    assert count_flops(apart, x).matmul == 4 * 2 * 2 * 2 * 16
