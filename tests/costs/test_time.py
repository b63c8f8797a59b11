"""Estimated times: hand counts of small optimised programs, and what has no estimate."""

import importlib.util
import subprocess
import sys

import pytest

from seqarch.costs.devices import place
from seqarch.costs.hlo import arrays_of, parse
from seqarch.costs.links import HOP_S
from seqarch.costs.time import estimate, program_seconds
from seqarch.costs.uncounted import GATHERED, LEAST, SCATTERED, Uncounted
from seqarch.errors import NoResult
from tests.costs.test_measure import CONFIG

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
        ([f"ROOT %s = {BIG} sort(%x), dimensions={{0}}, to_apply=%f"], "%s (a sort)"),
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


COPY = [
    f"%start = ({BIG[:-1]}S(1)}}, {BIG}, u32[]{{:S(2)}}) copy-start(%x)",
    f"%work = {BIG} fusion(%x), kind=kLoop, calls=%f, {cycles(1000)}",
    f"%done = {BIG[:-1]}S(1)}} copy-done(%start)",
    LAST,
]


def test_a_copy_runs_beside_instructions_and_is_waited_for():
    found = seconds(*COPY)
    copied = 4 * MIB / BANDWIDTH
    assert copied > 1000 / CLOCK
    assert found.copying == pytest.approx(copied - 1000 / CLOCK)
    assert found.total == pytest.approx(copied + 300 / CLOCK)
    short = [line.replace('"1000"', '"100000"') for line in COPY]
    assert seconds(*short).copying == 0.0
    unawaited = [line for line in COPY if "done" not in line]
    assert seconds(*unawaited).total >= copied


def test_collectives_take_their_bytes_over_the_links():
    link = FOUR.target.links / 4  # of four links; the grid has two axes
    given = 4 * MIB
    groups = "channel_id=1, replica_groups=mesh['a'=4,'b'=1] {'a'}"
    whole = seconds(f"%r = {BIG} all-reduce(%x), {groups}, to_apply=%f", LAST, at=FOUR)
    assert whole.linking == pytest.approx(2 * given * 3 / 4 / (2 * link) + 3 * HOP_S)
    pairs = "channel_id=1, replica_groups={{0,1},{2,3}}"
    pair = seconds(f"%r = {BIG} all-reduce(%x), {pairs}, to_apply=%f", LAST, at=FOUR)
    assert pair.linking == pytest.approx(given / link + HOP_S)
    gathered = seconds(f"%g = {BIG} all-gather(%x), replica_groups=[1,4]<=[4]", LAST, at=FOUR)
    assert gathered.linking == pytest.approx(3 * given / (2 * link) + 3 * HOP_S)
    moved = [
        f"%s = ({BIG}, {BIG}) collective-permute-start(%x), source_target_pairs={{{{0,1}}}}",
        f"%d = {BIG} collective-permute-done(%s)",
    ]
    assert seconds(*moved, LAST, at=FOUR).linking == pytest.approx(given / link + HOP_S)


def test_a_collective_spread_over_fusions_runs_from_the_first_to_the_last():
    part = (
        f"%part (a: {BIG}) -> {BIG} {{\n  %a = {BIG} parameter(0)\n"
        f"  ROOT %g = {BIG} all-gather(%a), channel_id=7, replica_groups=[1,4]<=[4]\n}}\n"
    )
    one = f"{BIG} fusion(%x), kind=kCustom, calls=%part"
    body = [f"%s = {one}", f"%w = {one}, {cycles(100000)}", f"%e = {one}", LAST]
    found = seconds(*body, computations=(part,), at=FOUR)
    alone = 3 * 4 * MIB / (2 * FOUR.target.links / 4) + 3 * HOP_S
    assert found.linking == pytest.approx(alone - 100000 / CLOCK)
    assert found.bounded == 0.0


ROWS = f"""%rows (a: {BIG}, i: s32[64]) -> f32[64,1024] {{
  %a = {BIG} parameter(0)
  %i = s32[64]{{0:T(128)S(1)}} parameter(1)
  ROOT %g = f32[64,1024]{{1,0:T(8,128)}} gather(%a, %i), offset_dims={{1}}, slice_sizes={{1,1024}}
}}
"""
ADDED = f"""%added (a: {BIG}, i: s32[64], u: f32[64,1024]) -> {BIG} {{
  %a = {BIG} parameter(0)
  %i = s32[64]{{0:T(128)S(1)}} parameter(1)
  %u = f32[64,1024]{{1,0:T(8,128)}} parameter(2)
  ROOT %s = {BIG} scatter(%a, %i, %u), update_window_dims={{1}}
}}
"""


def test_what_libtpu_does_not_count_is_bounded_by_bytes_and_rows():
    taken = seconds(
        "%g = f32[64,1024]{1,0:T(8,128)} fusion(%x, %i), kind=kCustom, calls=%rows",
        computations=(ROWS,),
    )
    moved = 2 * 64 * 4096 / BANDWIDTH  # only the rows of the table
    assert taken.total == pytest.approx(max(moved, GATHERED * 64 / CLOCK))
    added = seconds(
        f"%s = {BIG} fusion(%x, %i, %u), kind=kCustom, calls=%added", computations=(ADDED,)
    )
    assert added.bounded == added.total == pytest.approx(SCATTERED * 64 / CLOCK)
    padded = seconds(
        "%zero = f32[]{:T(128)} constant(0)",
        "ROOT %p = f32[1024,2048]{1,0:T(8,128)} pad(%x, %zero), padding=0_0x0_1024",
    )
    assert padded.bounded == pytest.approx(12 * MIB / BANDWIDTH)
    scalar = seconds("%i = s32[]{:T(128)} constant(1)", "ROOT %n = s32[]{:T(128)} negate(%i)")
    assert scalar.bounded == pytest.approx(LEAST / CLOCK)
    free = seconds('%b = f32[8]{0} custom-call(), custom_call_target="AllocateBuffer"')
    assert free.total == 0.0


@pytest.mark.parametrize(
    "shape, size",
    [
        ("f32[512,1]{0,1:T(8,128)}", 512 * 8 * 4),
        ("f32[512,1]{1,0:T(8,128)}", 512 * 128 * 4),
        ("bf16[3,257,256]{2,1,0:T(8,128)(2,1)S(1)}", 3 * 264 * 256 * 2),
        ("f32[1000]{0:T(1024)}", 1024 * 4),
        ("s4[100]{0}", 50),
        ("pred[]", 1),
        ("token[]", 0),
        ("(f32[2]{0}, s32[<=3]{0})", 20),
    ],
)
def test_bytes_are_those_of_whole_tiles(shape, size):
    assert sum(array.bytes for array in arrays_of(shape)) == size


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
    assert 1e-6 < timing.seconds < 0.1 and timing.linking == 0.0, (phase, timing)
    assert timing.seconds == sum(timing[1:]), timing
"""


@pytest.mark.slow
def test_a_product_takes_what_the_data_sheet_allows_and_a_loop_of_7_seven_of_its_turns():
    """In a process of its own, as libtpu brings its own libraries."""
    if not importlib.util.find_spec("libtpu"):
        pytest.skip("libtpu is not installed")
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
