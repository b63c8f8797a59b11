"""Claims about speed: training in parallel, and decoding."""

import dataclasses

from seqarch.config import with_forms
from seqarch.costs.memory import state_bytes
from seqarch.costs.programs import train_program
from seqarch.flops import loop_turns
from seqarch.report.formats import format_bytes
from seqarch.training.sharding import make_mesh
from studies.claims import trials
from studies.claims.base import Claim, Finding, Means, verdict
from studies.claims.growth import ATTENTION, CONSTANT

MEMBERS = (*CONSTANT, ATTENTION["blockwise"])
LENGTH = 4096  # of trained rows
CONTEXTS = (1024, 4096, 16384)
MEMORY, MOST = 2**30, 512  # bytes of states, and sequences, when a memory is full


def parallel_training(means: Means) -> Finding:
    evidence, sequential = {}, {}
    for name in MEMBERS:
        config = means.small[name]
        there = dataclasses.replace(
            config, model=with_forms(config.model, "gpu"), batch=1, length=LENGTH
        )
        program = train_program(there, make_mesh(there.mesh))
        turns = loop_turns(program.fn, *program.args) / config.model.layers
        means.say(f"training {name}")
        rate = means.alone(trials.trained_per_second, config, LENGTH)
        sequential[name] = turns >= LENGTH
        evidence[name] = {
            "turns of loops, a layer": f"{turns:,.0f}",
            "trained tokens/s": f"{rate:,.0f}",
        }
    gru, mamba = evidence["gru"], evidence["mamba"]
    return Finding(
        verdict(sequential[name] for name in CONSTANT),
        f"{LENGTH:,} tokens in {gru['turns of loops, a layer']} turns a layer (GRU), "
        f"{mamba['turns of loops, a layer']} (Mamba)",
        "Turns of loops that follow each other, counted in the train step as a GPU gets it, "
        "forward, backward and "
        "recomputation together. A GRU's next state is a nonlinear function of the last, so it "
        "has at least one turn a "
        "token each way. What is linear in the state composes associatively (Blelloch 1990; "
        "Martin and Cundy 2018) and is "
        "computed in chunks whose tokens are worked on at once; so is attention, in blocks. The "
        "rates are of one row on "
        "the machine named at the top: where there are two cores, a loop over tokens is not "
        "what costs.",
        evidence,
    )


def slow_decoding(means: Means) -> Finding:
    evidence, slower, rates = {}, [], {}
    for name in MEMBERS:
        config = means.small[name]
        means.say(f"decoding with {name}")
        many = trials.sequences(config, LENGTH, MEMORY, MOST)
        rates[name] = {
            f"one, after {n:,}": means.alone(trials.decoded_per_second, config, n, 1)
            for n in CONTEXTS
        }
        rates[name][FULL] = means.alone(trials.decoded_per_second, config, LENGTH, many)
        evidence[name] = {f"{where}": f"{rate:,.0f}" for where, rate in rates[name].items()}
        evidence[name] |= {
            "sequences": f"{many:,}",
            "a state": format_bytes(state_bytes(config, LENGTH)),
        }
    cache = rates[ATTENTION["blockwise"]]
    slower = [rates[name][where] < cache[where] for name in CONSTANT for where in cache]
    least = min(CONSTANT, key=lambda name: rates[name][FULL])
    near, far = (f"one, after {n:,}" for n in (CONTEXTS[0], CONTEXTS[-1]))
    return Finding(
        verdict(slower),
        (
            f"after {CONTEXTS[-1]:,} tokens {rates['mamba'][far]:,.0f} tokens/s (Mamba) against "
            f"{cache[far]:,.0f}; with memory full {rates[least][FULL]:,.0f} ({least}, the slowest) "
            f"against {cache[FULL]:,.0f}"
        ),
        (
            "Tokens a second in one compiled loop, at equal parameters, after prompts that were "
            "really read; a full memory is "
            f"{format_bytes(MEMORY)} of states or {MOST} sequences. Attention reads its filled "
            "cache block by block. A step of a recurrence works on its state alone. From "
            f"{CONTEXTS[0]:,} tokens to {CONTEXTS[-1]:,} the time of a token grows "
            f"{cache[near] / cache[far]:.1f} times with attention, "
        )
        + ", ".join(f"{rates[name][near] / rates[name][far]:.1f} with {name}" for name in CONSTANT)
        + ".",
        evidence,
    )


FULL = f"all, after {LENGTH:,}"

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
