"""Runs of a sweep over states that are made up, for tests of what is made of them."""

import math

from seqarch.records import Record, Results, Source

STATES = {16: 2**8, 32: 2**9, 64: 2**10, 128: 2**11, 256: 2**12}  # bytes, by width


def run_of(mixer, dim, pairs, accuracy, *, lr=1e-3, seed=0):
    """Returns the results of a run; an accuracy of None is that of one that diverged."""
    seeds = dict(model=seed, data=seed)
    model = dict(mixer=mixer, layers=2, dim=dim, mlp=0, conv=4, vocab=64, dtype="float32")
    config = dict(task=f"mqar(pairs={pairs},length=64,vocab=64)", length=64, steps=400, batch=64)
    config |= dict(model=model, optim=dict(lr=lr), seed=seeds)
    found = [Record("accuracy", "accuracy", accuracy, n=10**9)]
    if accuracy is None:
        found = [Record("accuracy", "accuracy", status="diverged")]
    else:
        found.append(Record("memory", "state_bytes", STATES[dim], {"context": 64}))
    made = dict(revision="0123abcdef0123", dirty=False)
    name = f"{mixer}-{dim}-{pairs}-{lr}-{seed}"
    return Results(Source(name, "run", config, 400, "validation", seeds, made), tuple(found))


def made_sweep():
    """Returns runs whose errors follow a law exactly, at the better of two learning rates."""
    return [
        run_of(mixer, dim, pairs, (lr == 1e-3) / (1 + math.exp(odds)), lr=lr, seed=seed)
        for mixer, intercept in (("gru", 12), ("mamba", 15))
        for dim, state in STATES.items()
        for pairs in (2, 4, 8)
        for lr in (1e-3, 1e-2)
        for seed in (0, 1)
        if (odds := intercept - 1.5 * math.log2(state) + 2 * math.log2(pairs)) is not None
    ]
