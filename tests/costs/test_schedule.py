"""Copies, collectives and what libtpu does not count, in small programs counted by hand."""

import pytest

from seqarch.costs.hlo import arrays_of
from seqarch.costs.links import HOP_S
from seqarch.costs.uncounted import GATHERED, LEAST, SCATTERED, SORTED
from tests.costs.hlo_text import BANDWIDTH, BIG, CLOCK, FOUR, LAST, MIB, cycles, seconds

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
    keys = "s32[16384]{0:T(1024)S(1)}"
    ordered = seconds(
        f"%keys = {keys} bitcast(%x)",
        f"%order = {keys} bitcast(%x)",
        f"ROOT %s = ({keys}, {keys}) sort(%keys, %order), dimensions={{0}}, to_apply=%f",
    )  # 14 * 15 / 2 stages of 2 * 16 registers
    assert ordered.bounded == ordered.total == pytest.approx(SORTED * 105 * 32 / CLOCK)
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
