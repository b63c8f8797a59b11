"""Claims about speed: training in parallel, and decoding."""

import dataclasses

from seqarch.config import Config, with_forms
from seqarch.costs.memory import state_bytes
from seqarch.costs.programs import train_program
from seqarch.flops import loop_turns
from seqarch.report.formats import format_bytes
from seqarch.training.sharding import make_mesh
from studies.claims import isolated
from studies.claims.base import Claim, Finding, Quantity, Setup, bytes_cell, verdict
from studies.claims.growth import ATTENTION, CONSTANT

MEMBERS = (*CONSTANT, ATTENTION["blockwise"])
LENGTH = 4096  # tokens of trained rows
CONTEXTS = (1024, 4096, 16384)
MEMORY = 2**30  # bytes of states that fill a memory
MOST = 512  # sequences that fill a memory at most
FULL = f"all, after {LENGTH:,}"
TURNS = "turns of loops, a layer"


def parallel_training(setup: Setup) -> Finding:
    evidence, sequential = {}, {}
    for name in MEMBERS:
        config = setup.small[name]
        turns = _turns(config)
        setup.say(f"training {name}")
        rate = setup.run_isolated(isolated.trained_per_second, config, LENGTH)
        sequential[name] = turns >= LENGTH
        evidence[name] = {
            TURNS: Quantity(turns, "rate"),
            "trained tokens/s": Quantity(rate, "rate"),
        }
    return Finding(
        verdict(sequential[name] for name in CONSTANT),
        f"{LENGTH:,} tokens in {evidence['gru'][TURNS]} turns a layer (GRU), "
        f"{evidence['mamba'][TURNS]} (Mamba)",
        "Turns of loops that follow each other, counted in the train step as a GPU gets it, "
        "forward, backward and recomputation together. A GRU's next state is a nonlinear function "
        "of the last, so it has at least one turn a token each way. What is linear in the state "
        "composes associatively (Blelloch 1990; Martin and Cundy 2018) and is computed in chunks "
        "whose tokens are worked on at once; so is attention, in blocks. The rates are of one row "
        "on the machine named at the top: where there are two cores, a loop over tokens is not "
        "what costs.",
        evidence,
    )


def _turns(config: Config) -> float:
    """Turns of loops a layer in the train step of one row, in the forms that a GPU gets."""
    forms = with_forms(config.model, "gpu")
    config = dataclasses.replace(config, model=forms, batch=1, length=LENGTH)
    program = train_program(config, make_mesh(config.mesh))
    return loop_turns(program.fn, *program.args) / config.model.layers


def slow_decoding(setup: Setup) -> Finding:
    evidence, rates = {}, {}
    for name in MEMBERS:
        config = setup.small[name]
        setup.say(f"decoding with {name}")
        many = isolated.sequences(config, LENGTH, MEMORY, MOST)
        rates[name] = _rates(setup, config, many)
        evidence[name] = {where: Quantity(rate, "rate") for where, rate in rates[name].items()}
        evidence[name]["sequences"] = Quantity(many, "count")
        evidence[name]["a state"] = bytes_cell(state_bytes(config, LENGTH))
    cache = rates[ATTENTION["blockwise"]]
    slower = [rates[name][where] < cache[where] for name in CONSTANT for where in cache]
    least = min(CONSTANT, key=lambda name: rates[name][FULL])
    near, far = (f"one, after {n:,}" for n in (CONTEXTS[0], CONTEXTS[-1]))
    slowdowns = [f"{rates[name][near] / rates[name][far]:.1f} with {name}" for name in CONSTANT]
    return Finding(
        verdict(slower),
        f"after {CONTEXTS[-1]:,} tokens {rates['mamba'][far]:,.0f} tokens/s (Mamba) against "
        f"{cache[far]:,.0f}; with memory full {rates[least][FULL]:,.0f} ({least}, the slowest) "
        f"against {cache[FULL]:,.0f}",
        "Tokens a second in one compiled loop, at equal parameters, after prompts that were "
        f"really read; a full memory is {format_bytes(MEMORY)} of states or {MOST} sequences. "
        "Attention reads its filled cache block by block. A step of a recurrence works on its "
        f"state alone. From {CONTEXTS[0]:,} tokens to {CONTEXTS[-1]:,} the time of a token grows "
        f"{cache[near] / cache[far]:.1f} times with attention, {', '.join(slowdowns)}.",
        evidence,
    )


def _rates(setup: Setup, config: Config, many: int) -> dict[str, float]:
    """Decoded tokens per second of one sequence after each context, and of `many` after LENGTH."""
    decoded = isolated.decoded_per_second
    rates = {f"one, after {n:,}": setup.run_isolated(decoded, config, n, 1) for n in CONTEXTS}
    return rates | {FULL: setup.run_isolated(decoded, config, LENGTH, many)}


CLAIMS = (
    Claim(
        "Recurrent models cannot be trained in parallel.",
        f"Turns of loops in train steps of one row of {LENGTH:,} tokens, and their speed.",
        parallel_training,
    ),
    Claim(
        "Recurrent models decode more slowly.",
        (
            "Tokens per second of one sequence and of as many as fit, against attention with a "
            "KV cache in the same loop."
        ),
        slow_decoding,
    ),
)
