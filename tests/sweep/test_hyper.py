"""Sweeps as config files and grids say them."""

import pytest

from seqarch.config import parse
from seqarch.errors import UserError
from seqarch.sweep import hyper as h
from seqarch.sweep.grid import parse_grid

BASE = parse({})


def test_product_zip_and_chain_combine_runs():
    rates, seeds = h.sweep("optim.lr", (1, 2)), h.sweep("seed.model", range(2))
    made = h.product([rates, h.zipit([seeds, h.sweep("seed.data", (5, 6))])])
    assert made == [
        {"optim.lr": lr, "seed.model": seed, "seed.data": 5 + seed}
        for lr in (1, 2)
        for seed in (0, 1)
    ]
    assert h.chainit([rates, seeds]) == [*rates, *seeds]
    assert h.product([]) == [{}] and h.zipit([]) == []


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: h.zipit([h.sweep("a", (1,)), h.sweep("b", (1, 2))]), "the same length"),
        (lambda: h.product([h.sweep("a", (1,))] * 2), "sets a twice"),
        (lambda: h.product([h.sweep(name, range(99)) for name in "abc"]), "at most 10,000"),
        (lambda: h.check_sweep({"a": 1}), "return a list of dicts"),
        (lambda: h.check_sweep(None), "return a list of dicts"),
        (lambda: h.check_sweep([1]), "return a list of dicts"),
    ],
)
def test_impossible_sweeps_are_told(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    "text, field, values",
    [
        ("optim.lr=1e-3,3", "optim.lr", [1e-3, 3.0]),
        ("optim.clip=inf", "optim.clip", [float("inf")]),
        ("seed.model=0..2,7", "seed.model", [0, 1, 2, 7]),
        ("model.mixer=gru,attention(window=4,heads=2)", "model.mixer", None),
        ("model.mixer='mamba,attention',gru", "model.mixer", ["mamba,attention", "gru"]),
        ("model.remat=true,False", "model.remat", [True, False]),
        ("evals.accuracy.rows=8", "evals.accuracy.rows", [8]),
        ("trackers=('tensorboard',),()", "trackers", [("tensorboard",), ()]),
    ],
)
def test_values_of_a_grid(text, field, values):
    values = values or ["gru", "attention(window=4,heads=2)"]
    assert parse_grid(f" {text} ", BASE) == h.sweep(field, values)


def test_fields_of_a_grid_are_combined_and_the_last_varies_fastest():
    found = parse_grid("steps=1,2\n  batch=3,4", BASE)
    assert [tuple(each.values()) for each in found] == [(1, 3), (1, 4), (2, 3), (2, 4)]


@pytest.mark.parametrize(
    "text, message",
    [
        ("lr=1", "unknown config field 'lr'; did you mean 'optim.lr'"),
        ("stepps=1", "did you mean 'steps'"),
        ("optim=1", "a group of fields; give one of optim.lr, "),
        ("steps", "cannot read 'steps' in --grid; write"),
        ("steps=", "cannot read"),
        ("=3", "cannot read"),
        ("steps=1,,2", "cannot read"),
        ("seed.model=4..0", "cannot read 'seed.model=4..0'"),
        ("seed.model=0..99999999999", "at most 10,000"),
        ("trackers=('a',", r"no closing \)"),
        ("model.mixer='gru", "no closing '"),
        ("steps=1 steps=2", "gives steps twice"),
    ],
)
def test_mistakes_in_a_grid_are_told(text, message):
    with pytest.raises(UserError, match=message):
        parse_grid(text, BASE)
