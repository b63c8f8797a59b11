"""Estimated times: hand counts of small optimised programs, and what has no estimate."""

import importlib.util
import subprocess
import sys

import pytest

from seqarch.costs.hlo import parse
from seqarch.costs.time import estimate
from seqarch.costs.uncounted import Uncounted
from seqarch.errors import NoResult
from tests.costs.hlo_text import BIG, CLOCK, LAST, cycles, seconds
from tests.costs.test_measure import CONFIG

BODY = f"""%body (p: (s32[], {BIG}, s32[])) -> (s32[], {BIG}, s32[]) {{
  %p = (s32[]{{:T(128)}}, {BIG}, /*index=2*/s32[]{{:T(128)}}) parameter(0)
  %one = s32[]{{:T(128)}} constant(1)
  %i = s32[]{{:T(128)}} get-tuple-element(%p), index=0
  %j = s32[]{{:T(128)S(6)}} copy(%i), {cycles(20)}
  %next = s32[]{{:T(128)}} add(%j, %one), metadata={{op_name="while/body/add"}}, {cycles(30)}
  %value = {BIG} get-tuple-element(%p), index=1
  %stop = s32[]{{:T(128)}} get-tuple-element(%p), index=2
  %work = {BIG} fusion(%value), kind=kLoop, calls=%f, {cycles(1000)}
  ROOT %out = (s32[], {BIG}, s32[]) tuple(%next, %work, /*index=2*/%stop)
}}
"""
CONDITION = f"""%condition (q: (s32[], {BIG}, s32[])) -> pred[] {{
  %q = (s32[]{{:T(128)}}, {BIG}, s32[]{{:T(128)}}) parameter(0)
  %at = s32[]{{:T(128)}} get-tuple-element(%q), index=0
  %limit = s32[]{{:T(128)}} get-tuple-element(%q), index=2
  ROOT %less = pred[]{{:T(512)}} compare(%at, %limit), direction=LT, {cycles(50)}
}}
"""


def loop(first, stop, scope="while"):
    """A loop whose turn takes 1,100 cycles."""
    name = f'metadata={{op_name="jit(f)/{scope}"}}'
    return [
        f"%first = s32[]{{:T(128)}} {first}",
        f"%end = s32[]{{:T(128)}} {stop}",
        f"%init = (s32[], {BIG}, s32[]) tuple(%first, %x, %end)",
        f"%loop = (s32[], {BIG}, s32[]) while(%init), condition=%condition, body=%body, {name}",
        LAST,
    ]


GIVEN = "get-tuple-element(%x), index=0"  # a number that is not known


@pytest.mark.parametrize(
    "first, stop, scope, trips",
    [
        ("constant(0)", "constant(5)", "while", 5),
        ("constant(2)", "constant(5)", "while", 3),
        ("constant(7)", "constant(5)", "while", 0),
        ("constant(0)", GIVEN, "at_most_2.5_trips/while", 2.5),
        ("constant(0)", GIVEN, "jvp(at_most_2.5_trips)/while", 2.5),
        ("constant(0)", "constant(5)", "at_most_2.5_trips/while", 5),
    ],
)
def test_a_loop_counts_once_a_trip(first, stop, scope, trips):
    found = seconds(*loop(first, stop, scope), computations=(BODY, CONDITION))
    assert found.total == pytest.approx((300 + trips * 1100) / CLOCK)
    assert found.computing == pytest.approx(found.total)


def test_a_constant_of_an_outer_loop_ends_an_inner_one():
    inner = f"%inner = (s32[], {BIG}, s32[]) while(%begin), condition=%condition, body=%body"
    outer = BODY.replace("%body", "%outer").replace(
        "  %work =",
        "  %zero = s32[]{:T(128)} constant(0)\n"
        f"  %begin = (s32[], {BIG}, s32[]) tuple(%zero, %value, %stop)\n  {inner}\n  %work =",
    )
    body = [
        line.replace("body=%body", "body=%outer") for line in loop("constant(0)", "constant(3)")
    ]
    found = seconds(*body, computations=(BODY, CONDITION, outer))
    assert found.total == pytest.approx((300 + 3 * (1100 + 3 * 1100)) / CLOCK)


@pytest.mark.parametrize(
    "body, said",
    [
        (loop("constant(0)", GIVEN), "%loop (a loop of unknown trips)"),
        (loop(GIVEN, "constant(5)"), "%loop (a loop of unknown trips)"),
        (loop("constant(0)", GIVEN, "at_most_2_trips/while/body/while"), "a loop of unknown trips"),
        (
            [f'ROOT %k = {BIG} custom-call(%x), custom_call_target="tpu_custom_call"'],
            "%k (a custom call of tpu_custom_call)",
        ),
        ([f"ROOT %s = {BIG} fft(%x), fft_type=FFT"], "%s (a fft)"),
        ([f"ROOT %p = {BIG} dot(%x, %x)"], "%p (a dot)"),
        (
            [f"ROOT %o = {BIG} fusion(%x), kind=kOutput, calls=%hidden"],
            "%o, a fusion with %c (a convolution)",
        ),
        (
            [f"%h = ({BIG[:-1]}S(5)}}, {BIG}, u32[]) copy-start(%x)", LAST],
            "%h (a copy from or to the host)",
        ),
        ([f"ROOT %r = {BIG} all-reduce(%x), replica_groups=odd"], "%r (a all-reduce)"),
    ],
)
def test_a_program_with_a_part_that_is_not_counted_is_refused(body, said):
    hidden = (
        f"%hidden (a: {BIG}) -> {BIG} {{\n  %a = {BIG} parameter(0)\n"
        f"  ROOT %c = {BIG} convolution(%a, %a), dim_labels=bf_io->bf\n}}\n"
    )
    with pytest.raises(Uncounted) as refused:
        seconds(*body, computations=(BODY, CONDITION, hidden))
    assert said in str(refused.value)


def branch(name, count):
    return (
        f"%{name} (a: {BIG}) -> {BIG} {{\n  %a = {BIG} parameter(0)\n"
        f"  ROOT %w = {BIG} fusion(%a), kind=kLoop, calls=%f, {cycles(count)}\n}}\n"
    )


@pytest.mark.parametrize(
    "names",
    ["branch_computations={%one, %two}", "true_computation=%one, false_computation=%two"],
)
def test_a_conditional_takes_its_longest_branch_and_a_call_what_it_calls(names):
    found = seconds(
        f"%c = {BIG} conditional(%x, %x, %x), {names}",
        f"%d = {BIG} call(%c), to_apply=%one",
        LAST,
        computations=(branch("one", 400), branch("two", 700)),
    )
    assert found.total == pytest.approx((700 + 400 + 300) / CLOCK)


def test_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no entry computation"):
        parse("HloModule empty")


def test_only_the_compilers_of_tpus_tell_times():
    with pytest.raises(NoResult, match="estimates the time of programs for gpu-h100"):
        estimate(CONFIG, "train", 1, 64, "gpu-h100")


COMPILE = """
import re
import jax, jax.numpy as jnp
jax.config.update("jax_platforms", "cpu")
from jax.sharding import SingleDeviceSharding
from seqarch.config import Config, ModelConfig
from seqarch.costs.devices import place
from seqarch.costs.time import estimate, program_seconds
one = place("tpu-v5e")
sharding = SingleDeviceSharding(one.devices()[0])
x = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16, sharding=sharding)

def optimised(fn):
    return jax.jit(fn).trace(x, x).lower(lowering_platforms=("tpu",)).compile().as_text()

def loop(a, b):
    return jax.lax.scan(lambda a, _: (jnp.tanh(a @ b), None), a, None, length=7)[0]

product = program_seconds(optimised(lambda a, b: a @ b), one)
assert abs(product.total / 722e-6 - 1) < 0.1, product
text = optimised(loop)
looped, count = program_seconds(text, one), re.compile(r'"estimated_cycles":"([0-9]+)"')
before, within = text.split("ENTRY")[::-1]
turn = sum(map(int, count.findall(within)))  # a product, and a copy of what the loop carries
assert not count.search(before) and 1e6 < turn < 2e6, turn
assert abs(looped.computing / (7 * turn / one.target.clock) - 1) < 1e-6, (turn, looped)
assert looped.total < 1.05 * looped.computing, looped
config = Config(length=64, model=ModelConfig("gru", layers=1, dim=64, mlp=64))
for phase in ("train", "prefill", "decode"):
    timing = estimate(config, phase, 1, 64, "tpu-v5e")
    assert 1e-6 < timing.total < 0.1 and timing.linking == 0.0, (phase, timing)
"""


@pytest.mark.slow
def test_a_product_takes_what_the_data_sheet_allows_and_a_loop_of_7_seven_of_its_turns():
    """In a process of its own, as libtpu brings its own libraries."""
    if not importlib.util.find_spec("libtpu"):
        pytest.skip("libtpu is not installed")
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
