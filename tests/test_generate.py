"""Decoding: what generate yields is what the training call says, whatever the prompts' lengths and
the segments.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqarch.config import ModelConfig
from seqarch.decoding import (
    Decoding,
    decode,
    decode_unchecked,
    fork,
    prefill,
    prefill_segment,
    reset,
)
from seqarch.errors import UserError
from seqarch.generate import generate, stream
from seqarch.prompts import bucket
from seqarch.sampling import Sampling
from seqarch.tasks.text.tokenizer import BOUNDARY
from tests.grids import slow_but
from tests.models import build

PROMPTS = [list(b"To be, or not"), [], list(b"Now")]
GREEDY = Sampling(temperature=0)
ROOM, PIECE = (
    64,
    16,
)  # those of generate for such prompts and few steps, so that programs are shared


HYBRIDS = "mamba,attention(window=6)", "gru,attention"


@pytest.fixture(scope="module", params=slow_but(HYBRIDS[:1], HYBRIDS))
def model(request):
    config = ModelConfig(mixer=request.param, layers=2, dim=16, mlp=16)
    # weights so large that logits are far apart, and rounding does not decide between them
    return jax.tree.map(lambda x: jnp.asarray(3 * np.asarray(x)), build(config))


def test_greedy_is_the_argmax_of_the_training_call(model):
    call = jax.jit(lambda model, tokens: model(tokens))
    expected = []
    for prompt in PROMPTS:
        tokens = prompt or [BOUNDARY]
        for _ in range(4):
            padded = jnp.array([tokens + [0] * (20 - len(tokens))])
            tokens = tokens + [int(call(model, padded)[0, len(tokens) - 1].argmax())]
        expected.append(tokens[-4:])
    given = generate(model, PROMPTS, steps=4, key=jax.random.key(0), sampling=GREEDY)
    assert [list(row) for row in given] == expected


def test_segments_change_nothing(model):
    model = model.unstack()
    results = [
        prefill(model, PROMPTS, model.init_state(3, ROOM), segment=segment) for segment in (4, 512)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), *results)


def test_states_can_be_kept_forked_and_reset(model):
    model = model.unstack()
    logits, states = prefill(model, PROMPTS, model.init_state(3, ROOM))
    kept = jax.tree.map(jnp.copy, (logits, states))
    run = lambda logits, states: np.asarray(
        decode(
            model,
            Decoding(logits, states, jnp.zeros(3, bool)),
            jax.random.key(0),
            steps=PIECE,
            sampling=GREEDY,
        )[0]
    )
    first = run(logits, states)
    rows = jnp.array([2, 2, 0])
    assert (
        run(*fork(kept, rows)) == first[rows]
    ).all()  # rolled back, and row by row from another row's state

    emptied = reset(kept[1], jnp.array([True, False, True]), model.init_state(3, ROOM))
    again, _ = prefill(model, [PROMPTS[0], [65], PROMPTS[2]], emptied)
    np.testing.assert_allclose(again[jnp.array([0, 2])], kept[0][jnp.array([0, 2])], atol=2e-4)


def test_the_stop_token_ends_a_row(model):
    free = generate(model, PROMPTS, steps=6, key=jax.random.key(1))
    stop = int(free[0][2])
    stopped = generate(model, PROMPTS, steps=6, key=jax.random.key(1), stop=stop)
    for row, cut in zip(free, stopped):
        end = np.flatnonzero(row == stop)
        assert (cut == (row[: end[0]] if len(end) else row)).all()


def test_a_stream_is_the_same_with_the_same_key(model):
    run = lambda: np.concatenate(
        list(stream(model, PROMPTS, steps=7, every=3, key=jax.random.key(2))), axis=1
    )
    assert run().shape == (3, 7) and (run() == run()).all()


@pytest.mark.parametrize("value", [float("inf"), 1.5, -1, True])
def test_a_top_k_that_is_no_count_is_refused(value):
    with pytest.raises(UserError, match="whole top_k"):
        decode(None, None, None, steps=1, sampling=Sampling(top_k=value))


@pytest.mark.parametrize("token", [300, 257, -1, 3.7, float("nan"), True])
def test_what_is_no_token_is_refused(model, token):
    with pytest.raises(UserError, match="a prompt"):
        generate(model, [[65, token]], steps=1, key=jax.random.key(0))


def test_impossible_sampling_is_refused(model):
    with pytest.raises(UserError, match="top_p"):
        generate(model, PROMPTS, steps=2, key=jax.random.key(0), sampling=Sampling(top_p=0.0))


@pytest.mark.parametrize(
    "mixer", ["gru", "mamba", "linear_attention(decay=data)", "attention(window=8)"]
)
def test_the_memory_of_a_constant_state_does_not_follow_the_prompt(mixer):
    model = build(ModelConfig(mixer=mixer, layers=1, dim=16, mlp=0)).unstack()

    def program(max_len):
        segment, states = (
            jnp.zeros((1, 16), jnp.int32),
            jax.eval_shape(lambda: model.init_state(1, max_len)),
        )
        return prefill_segment.lower(
            model, segment, states, jnp.array([16]), jnp.zeros((1, 16))
        ).as_text()

    assert program(1 << 10) == program(1 << 20)  # so one peak, for a prompt of any length


def test_pieces_change_no_sample(model):
    whole = generate(model, PROMPTS, steps=7, key=jax.random.key(2))
    pieces = np.concatenate(
        list(stream(model, PROMPTS, steps=7, every=3, key=jax.random.key(2))), axis=1
    )
    assert (np.stack(whole) == pieces).all()


def test_a_boundary_in_a_prompt_begins_a_document(model):
    model = model.unstack()
    prompts = [[65, 66, BOUNDARY, 67], [BOUNDARY, 67], []]
    logits, _ = prefill(model, prompts, model.init_state(3, ROOM))
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-4)


@pytest.fixture(scope="module")
def cached():
    """A model with a cache a layer, the second after a layer whose output may be NaN."""
    config = ModelConfig(mixer="attention,attention(window=32)", layers=2, dim=16, mlp=0, conv=2)
    return build(config).unstack()


@pytest.mark.parametrize("pattern", ["attention", "attention(window=32)", "mamba,attention"])
def test_a_prompt_that_a_cache_cannot_hold_is_refused(pattern):
    model = build(ModelConfig(mixer=pattern, layers=2, dim=16, mlp=0))
    with pytest.raises(UserError, match="given 40 tokens and its state has room for 20"):
        model.prefill(jnp.ones((1, 40), int), model.init_state(1, 20))


def test_steps_beyond_the_room_are_refused(cached):
    states = cached.init_state(1, 8)
    for _ in range(8):
        _, states = cached.step(jnp.array([65]), states)
    with pytest.raises(UserError, match="given 1 tokens and its state has room for 0"):
        cached.step(jnp.array([65]), states)


@pytest.mark.slow
def test_a_second_prompt_beyond_the_room_is_refused(cached):
    runs = (
        lambda states: cached.prefill(jnp.full((1, 6), 65), states),
        lambda states: prefill(cached, [[65] * 6], states),
    )
    for run in runs:
        _, states = run(cached.init_state(1, 8))
        with pytest.raises(UserError, match="given 6 tokens and its state has room for 2"):
            run(states)


@pytest.mark.slow
def test_the_room_is_that_of_a_document_without_padding(cached):
    states = cached.init_state(2, 8)
    starts = jnp.zeros((2, 10), bool).at[:, 4].set(True)
    cached.prefill(jnp.full((2, 10), 65), states, starts)
    cached.prefill(jnp.full((2, 10), 65), states, None, jnp.array([8, 3]))
    with pytest.raises(UserError, match="row 0 is given 9 tokens and its state has room for 8"):
        prefill(cached, [[BOUNDARY] + [65] * 8, [66]], states)


def test_decoding_beyond_the_room_is_refused(cached):
    logits, states = prefill(cached, [[65] * 8, [66]], cached.init_state(2, 12))
    at = Decoding(logits, states, jnp.array([False, True]))
    with pytest.raises(UserError, match="row 0 is given 30 tokens and its state has room for 4"):
        decode(cached, at, jax.random.key(0), steps=30)
    decode(cached, at, jax.random.key(0), steps=4)


def test_a_ring_never_fills():
    window = build(ModelConfig(mixer="attention(window=4)", layers=1, dim=16, mlp=0))
    states = window.init_state(1, 8)
    assert np.isfinite(window.prefill(jnp.ones((1, 12), int), states)[0]).all()


TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 12)))


def _within(model, run, slots, lengths=jnp.array([8, 3])):
    """Outputs of `run` after a prefill in which row 0 is given 8 tokens and row 1 three."""
    states = model.prefill(TOKENS[:, :8], model.init_state(2, slots), None, lengths)[1]
    return np.asarray(jax.jit(run)(model, states))


def _stepped(model, states):
    return jax.lax.scan(lambda s, t: model.step(t, s)[::-1], states, TOKENS.T[:5])[1].swapaxes(0, 1)


def _prefilled(model, states):
    return model.prefill(TOKENS[:, :5], states, None, jnp.array([5, 4]))[0][:, :4]


@pytest.mark.slow
@pytest.mark.parametrize("run", [_stepped, _prefilled])
def test_a_full_cache_makes_its_row_nan_under_jit(cached, run):
    full, ample = (_within(cached, run, slots) for slots in (8, 20))
    assert np.isnan(full[0]).all() and np.isfinite(ample).all()
    np.testing.assert_allclose(full[1], ample[1], atol=1e-5)


def test_steps_are_nan_from_the_first_token_without_a_slot(cached):
    run = lambda model, slots: jax.lax.scan(
        lambda s, t: model.step(t, s)[::-1], model.init_state(2, slots), TOKENS.T
    )[1]
    full, ample = (np.asarray(jax.jit(run, static_argnums=1)(cached, slots)) for slots in (8, 12))
    np.testing.assert_allclose(full[:8], ample[:8], atol=1e-5)
    assert np.isnan(full[8:]).all() and np.isfinite(ample).all()


@pytest.mark.slow
def test_few_programs_serve_prompts_of_all_lengths():
    model = build(ModelConfig(mixer="attention", layers=1, dim=8, mlp=0, vocab=16))
    sizes = lambda: (prefill_segment._cache_size(), decode_unchecked._cache_size())
    before = sizes()
    for length in range(3, 41, 4):
        generate(model, [[1] * length], steps=length % 7 + 3, key=jax.random.key(0))
    assert all(after - first <= 3 for first, after in zip(before, sizes(), strict=True))


def test_generation_ends_soon_after_every_row_has_stopped(monkeypatch):
    model = build(ModelConfig(mixer="gru", layers=1, dim=8, mlp=0, vocab=4))
    pieces = []
    count = lambda *args, **options: (
        pieces.append(options["steps"]) or decode_unchecked(*args, **options)
    )
    monkeypatch.setattr("seqarch.decoding.decode_unchecked", count)
    (text,) = generate(model, [[1]], steps=1000, key=jax.random.key(0), stop=3)
    assert len(text) < 64 and pieces == [64]


@pytest.mark.parametrize(
    "size, expected", [(1, 64), (64, 64), (65, 128), (300, 320), (1000, 1024), (1100, 1280)]
)
def test_buckets_waste_little(size, expected):
    assert bucket(size, least=64, parts=4) == expected


def small(mixer):
    return build(ModelConfig(mixer, layers=1, dim=16, mlp=0))


@pytest.mark.parametrize("stop", [300, -1, 3.7, True])
def test_a_stop_that_is_no_token_is_refused(stop):
    with pytest.raises(UserError, match="give one of the model's tokens"):
        generate(small("gru"), [[1]], steps=1, key=jax.random.key(0), stop=stop)


@pytest.mark.parametrize("prompts", [[1, 2], [None], [[[1]]]])
def test_prompts_are_lists_of_tokens(prompts):
    with pytest.raises(UserError, match="give a list of prompts, each a list of tokens"):
        generate(small("gru"), prompts, steps=1, key=jax.random.key(0))


def test_a_row_that_there_is_not_is_not_forked():
    states = small("gru").unstack().init_state(2, 4)
    with pytest.raises(UserError, match="no row 7; the states have rows 0 to 1"):
        fork(states, jnp.array([0, 7]))


def test_rows_that_are_done_need_room_where_nothing_stops_them():
    """Without a stop token rows that are marked as done go on like all others."""
    model = small("attention").unstack()
    at = Decoding(jnp.zeros((1, 257)), model.init_state(1, 8), jnp.ones(1, bool))
    with pytest.raises(UserError, match="row 0 is given 20 tokens and its state has room for 8"):
        decode(model, at, jax.random.key(0), steps=20)


def test_a_model_of_nan_generates_nothing():
    broken = jax.tree.map(lambda x: x * jnp.nan, small("gru"))
    with pytest.raises(UserError, match="the logits of row 0 are NaN"):
        generate(broken, [[1]], steps=2, key=jax.random.key(0))
