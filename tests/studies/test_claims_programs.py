"""What claims are measured with: fits, turns of loops, swapped parameters, programs that run."""

import dataclasses

import jax
import numpy as np
import pytest

from seqarch.config import Config, DataConfig, ModelConfig, OptimConfig
from seqarch.errors import UserError
from seqarch.flops import loop_turns
from seqarch.stats.exponents import growth
from seqarch.tasks.text import tokens, writer
from studies.claims import approximation, isolated
from studies.claims.swap import swapped
from tests.models import build


def test_fits_tell_a_power_from_an_exponential():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    power, exponential = growth(x, x**2), growth(x, 2**x)
    assert power.power < 1e-9 < power.exponential
    assert exponential.exponential < 1e-9 < exponential.power


def test_turns_multiply_inside_and_add_outside():
    inner = lambda x: jax.lax.fori_loop(0, 3, lambda i, x: x * 2.0, x)

    def run(x):
        x, _ = jax.lax.scan(lambda x, _: (inner(inner(x)), None), x, None, length=5)
        return inner(x) + 1

    assert loop_turns(run, 1.0) == 5 * (3 + 3) + 3


@pytest.mark.slow
def test_swapped_parameters_are_read_by_the_other_mixer():
    of = lambda mixer: ModelConfig(mixer, layers=2, dim=8, mlp=8)
    softmax = build(of("attention(rope=None)"))
    linear = swapped(softmax, of("linear_attention"))
    again = swapped(linear, of("attention(rope=None)"))
    tokens = np.arange(6)[None]
    assert np.array_equal(softmax(tokens), again(tokens))
    assert not np.allclose(softmax(tokens), linear(tokens))
    with pytest.raises(UserError, match="other parameters"):
        swapped(softmax, of("gru"))


@pytest.mark.slow
def test_rates_of_what_really_runs():
    model = ModelConfig("mamba,attention", layers=2, dim=8, mlp=8)
    config = Config(length=64, model=model)
    assert isolated.decoded_per_second(config, 64, 3) > 0
    assert isolated.trained_per_second(config, 64) > 0
    assert isolated.sequences(config, 64, 1 << 40, 7) == 7
    assert isolated.sequences(config, 64, 1, 7) == 1


@pytest.mark.slow
def test_bits_of_a_run_under_another_mixer(tmp_path):
    text = b"To be, or not to be, that is it. " * 20
    documents = [(split, split, text) for split in tokens.SPLITS]
    writer.write(tmp_path / "text", documents, {}, replace=False)
    config = Config(
        steps=1,
        batch=2,
        length=32,
        model=ModelConfig("attention(rope=None)", layers=1, dim=8, mlp=8),
        optim=OptimConfig(),
        data=DataConfig(path=str(tmp_path / "text")),
    )
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, limit=64, batch=2))
    scores = isolated.bits(config, str(tmp_path / "run"), [approximation.LINEAR])
    assert list(scores) == [config.model.mixer, approximation.LINEAR]
    assert all(7 < bits < 9 for bits in scores.values())
