"""Text of small optimised programs, as libtpu writes it."""

from seqarch.costs.devices import place
from seqarch.costs.time import program_seconds

ONE, FOUR = place("tpu-v5e"), place("tpu-v5e:2x2")
CLOCK, BANDWIDTH = ONE.target.clock, ONE.target.bandwidth
MIB = 2**20


def cycles(count):
    """The configuration of an instruction that libtpu estimates."""
    return f'backend_config={{"window_config":{{"estimated_cycles":"{count}"}}}}'


def program(body, *computations):
    """The text of a module with the lines of its entry computation."""
    entry = "ENTRY %main (x: f32[1024,1024]) -> f32[1024,1024] {\n"
    given = "  %x = f32[1024,1024]{1,0:T(8,128)} parameter(0)\n"
    lines = "".join(f"  {line}\n" for line in body)
    parts = [FUSED, *computations, entry + given + lines + "}"]
    return "HloModule m, is_scheduled=true\n\n" + "\n".join(parts)


BIG = "f32[1024,1024]{1,0:T(8,128)}"
FUSED = f"%f (a: {BIG}) -> {BIG} {{\n  ROOT %a = {BIG} parameter(0)\n}}\n"


def seconds(*body, computations=(), at=ONE):
    return program_seconds(program(body, *computations), at)


LAST = f"ROOT %last = {BIG} fusion(%x), kind=kLoop, calls=%f, {cycles(300)}"
