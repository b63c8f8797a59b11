"""Claims about speed: training in parallel, and decoding."""

import dataclasses
from collections.abc import Iterator

from seqarch.config import Config, with_forms
from seqarch.costs.memory import state_bytes
from seqarch.costs.programs import train_program
from seqarch.flops import loop_turns
from seqarch.ops.forms import ACCELERATOR
from seqarch.records import Record, Results
from seqarch.report.formats import format_bytes, format_rate
from seqarch.report.tables import Column
from seqarch.training.sharding import make_mesh
from studies.claims import isolated
from studies.claims.base import Claim, Finding, verdict
from studies.claims.evidence import STATE, TURNS, record, value
from studies.claims.growth import ATTENTION, CONSTANT
from studies.claims.setup import Setup

MEMBERS = (*CONSTANT, ATTENTION["blockwise"])
LENGTH = 4096  # tokens of trained rows
CONTEXTS = (1024, 4096, 16384)
MEMORY = 2**30  # bytes of states that fill a memory
MOST = 512  # sequences that fill a memory at most
TRAINED = "trained_tokens_per_s"
ONE, ALL = "one_tokens_per_s", "all_tokens_per_s"  # of one sequence, and of as many as fit


def measure_training(setup: Setup) -> Iterator[Record]:
    for name in MEMBERS:
        config, at = setup.small[name], dict(model=name, context=LENGTH)
        yield record(TURNS, _turns(config), **at)
        setup.say(f"training {name}")
        rate = setup.run_isolated(isolated.trained_per_second, config, LENGTH)
        yield record(TRAINED, rate, **at)


def _turns(config: Config) -> float:
    """Turns of loops a layer in the train step of one row, in the forms of accelerators."""
    forms = with_forms(config.model, ACCELERATOR)
    config = dataclasses.replace(config, model=forms, batch=1, length=LENGTH)
    program = train_program(config, make_mesh(config.mesh))
    return loop_turns(program.fn, *program.args) / config.model.layers


def judge_training(found: Results) -> Finding:
    rows = {}
    for name in MEMBERS:
        at = dict(model=name, context=LENGTH)
        rows[name] = value(found, TURNS, **at), value(found, TRAINED, **at)
    return Finding(
        verdict(rows[name][0] >= LENGTH for name in CONSTANT),
        f"{LENGTH:,} tokens in {rows['gru'][0]:,.0f} turns a layer (GRU), "
        f"{rows['mamba'][0]:,.0f} (Mamba)",
        "Turns of loops that follow each other, counted in the train step as a GPU gets it, "
        "forward, backward and recomputation together. A GRU's next state is a nonlinear function "
        "of the last, so it has at least one turn a token each way. What is linear in the state "
        "composes associatively (Blelloch 1990; Martin and Cundy 2018) and is computed in chunks "
        "whose tokens are worked on at once; so is attention, in blocks. The rates are of one row "
        "on the machine named at the top: where there are two cores, a loop over tokens is not "
        "what costs.",
        [Column("turns of loops, a layer", "number"), Column("trained tokens/s", "rate")],
        rows,
    )


def measure_decoding(setup: Setup) -> Iterator[Record]:
    decoded = isolated.decoded_per_second
    for name in MEMBERS:
        setup.say(f"decoding with {name}")
        config, at = setup.small[name], dict(model=name, context=LENGTH)
        for n in CONTEXTS:
            yield record(ONE, setup.run_isolated(decoded, config, n, 1), model=name, context=n)
        many = isolated.sequences(config, LENGTH, MEMORY, MOST)
        yield record(ALL, setup.run_isolated(decoded, config, LENGTH, many), **at)
        yield record("sequences", many, **at)
        yield record(STATE, state_bytes(config.model, LENGTH), **at)


def judge_decoding(found: Results) -> Finding:
    rates, rows = {}, {}
    for name in MEMBERS:
        one = [value(found, ONE, model=name, context=n) for n in CONTEXTS]
        full, *state = (
            value(found, metric, model=name, context=LENGTH) for metric in (ALL, "sequences", STATE)
        )
        rates[name] = *one, full
        rows[name] = *rates[name], *state
    cache = rates[ATTENTION["blockwise"]]
    slower, slowdowns = [], []
    for name in CONSTANT:
        slower += [rate < other for rate, other in zip(rates[name], cache, strict=True)]
        near, *_, far, _ = rates[name]
        slowdowns.append(f"{near / far:.1f} with {name}")
    near, *_, far, full = cache
    least = min(CONSTANT, key=lambda name: rates[name][-1])
    return Finding(
        verdict(slower),
        f"after {CONTEXTS[-1]:,} tokens {format_rate(rates['mamba'][-2])} tokens/s (Mamba) "
        f"against {format_rate(far)}; with memory full {format_rate(rates[least][-1])} ({least}, "
        f"the slowest) against {format_rate(full)}",
        "Tokens a second in one compiled loop, at equal parameters, after prompts that were "
        f"really read; a full memory is {format_bytes(MEMORY)} of states or {MOST} sequences. "
        "Attention reads its filled cache block by block. A step of a recurrence works on its "
        f"state alone. From {CONTEXTS[0]:,} tokens to {CONTEXTS[-1]:,} the time of a token grows "
        f"{near / far:.1f} times with attention, {', '.join(slowdowns)}.",
        [
            *(Column(f"one, after {n:,}", "rate") for n in CONTEXTS),
            Column(f"all, after {LENGTH:,}", "rate"),
            Column("sequences", "count"),
            Column("a state", "bytes"),
        ],
        rows,
    )


CLAIMS = (
    Claim(
        "parallel training",
        "Recurrent models cannot be trained in parallel.",
        f"Turns of loops in train steps of one row of {LENGTH:,} tokens, and their speed.",
        measure_training,
        judge_training,
    ),
    Claim(
        "slow decoding",
        "Recurrent models decode more slowly.",
        (
            "Tokens per second of one sequence and of as many as fit, against attention with a "
            "KV cache in the same loop."
        ),
        measure_decoding,
        judge_decoding,
    ),
)
