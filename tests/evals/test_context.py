"""Use of context: the same targets at every context, a carried state, and attention that is
truncated to a window.
"""

import types

import jax
import numpy as np
import pytest

from seqarch.config import Config, EvalConfig, ModelConfig
from seqarch.evals import context
from seqarch.evals.context import target_ends, truncate
from seqarch.evals.losses import Scored, bits_per_byte, carried_losses, texts, windowed_losses
from seqarch.model import LanguageModel
from seqarch.records import Record, Results, Source
from seqarch.tasks.text import tokens, writer
from tests.models import build

LENGTH = 8


def model(mixer: str) -> LanguageModel:
    return build(ModelConfig(mixer, layers=1, dim=16, mlp=16)).unstack()


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> tokens.TokenFile:
    rng = np.random.default_rng(0)
    content = [
        (name, rng.integers(97, 123, size, np.uint8).tobytes())
        for name, size in (("a", 64), ("b", 90), ("c", 63))
    ]
    directory = tmp_path_factory.mktemp("text") / "prepared"
    writer.write(
        directory, [(name, *pair) for name in tokens.SPLITS for pair in content], {}, replace=False
    )
    return tokens.open_split(directory, "validation")


def measure(mixer: str, split: tokens.TokenFile, targets: int = 2) -> Results:
    config = Config(
        length=LENGTH,
        model=ModelConfig(mixer, layers=1, dim=16, mlp=16),
        eval=EvalConfig(batch=3),
    )
    run = types.SimpleNamespace(
        config=config, serving=model(mixer), split=split, counter=lambda what: lambda done, of: None
    )
    return Results(Source(mixer), ()).with_found(context.evaluate(run, targets=targets))


def test_targets_lie_where_every_context_fits(split):
    ends = target_ends(texts(split), 8 * LENGTH, 3)
    assert [(text.name, end) for text, end in ends] == [("a", 64)] * 3 + [
        ("b", 64),
        ("b", 77),
        ("b", 90),
    ]


@pytest.mark.slow
def test_a_reset_state_has_the_value_at_the_length_of_training(split):
    """A window of `length` from an empty state: its last quarter is what windowed scoring says
    there.
    """
    found, text = measure("gru", split, targets=1), texts(split)
    assert found.value("context", "targets") == 2  # the third text is too short
    quarter = LENGTH // 4
    windows = [Scored(each.name, *(column[:64] for column in each[1:])) for each in text[:2]]
    losses = windowed_losses(model("gru"), windows, LENGTH, 3, lambda done, of: None)
    last = [window._replace(sizes=window.sizes[-quarter:]) for window in windows]
    assert found.value("context", "carried", context=LENGTH) == pytest.approx(
        bits_per_byte([part[-quarter:] for part in losses], last), rel=1e-5
    )
    whole = carried_losses(model("gru"), windows, LENGTH, 3, lambda done, of: None)
    carried = bits_per_byte([part[-quarter:] for part in whole], last)
    assert found.value("context", "carried", context=8 * LENGTH) == pytest.approx(carried, rel=1e-5)
    scores = found.all("context", "carried")
    assert len({round(each.value, 6) for each in scores}) >= 4
    assert [each.at["context"] for each in scores] == [2, 4, 8, 16, 32, 64]
    assert {each.n for each in scores} == {2}


@pytest.mark.slow
def test_truncated_attention_sees_its_window_only(split):
    """What stands before the window is nothing to it: at every longer context it has the same
    value.
    """
    found = measure("attention", split)
    truncated = {each.at["context"]: each.value for each in found.all("context", "truncated")}
    values = [truncated.pop(factor * LENGTH) for factor in (2, 4, 8)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)
    assert abs(values[0] - found.value("context", "carried", context=8 * LENGTH)) > 1e-4
    assert not truncated, "within the window of training there is nothing to truncate"


def test_truncation_keeps_parameters_and_leaves_alone_what_is_narrow_or_recurrent():
    whole = model("attention")
    narrow = truncate(whole, ModelConfig("attention", layers=1, dim=16, mlp=16), 4)
    assert narrow.blocks()[0].mixer.window == 4
    assert jax.tree.all(
        jax.tree.map(lambda a, b: a is b, jax.tree.leaves(narrow), jax.tree.leaves(whole))
    )
    for mixer in ("mamba", "attention(window=3)"):
        assert truncate(model(mixer), ModelConfig(mixer, layers=1, dim=16, mlp=16), 4) is None


def test_without_targets_nothing_is_scored(split):
    found = measure("gru", split, targets=0)
    assert found.records == (Record("context", "targets", 0),)
