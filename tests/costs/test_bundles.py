"""Bundles of kernels, counted by hand in a small schedule, and those that cannot be counted."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqarch.costs.bundles import (
    FLAGS,
    KernelWork,
    clear_schedules,
    dump_directory,
    dump_flags,
    find_kernel,
    read_kernel,
)
from seqarch.costs.devices import place
from seqarch.costs.time import program_seconds
from seqarch.costs.uncounted import Uncounted
from tests.costs.hlo_text import BIG, program

# Cut from what libtpu 0.0.42 writes: two operands are copied in, the second of a single block, in
# a grid of 64 turns and 2 of the pipeline; an inner loop goes from 0 to 32 in steps of 2.
SCHEDULE = Path(__file__).with_name("kernel_schedule.txt").read_text()
INNER = 66 * 16 * 4  # bundles 7 to 9, and 0xb, which stands behind
OUTER = 66 * (5 + 1 + 2)  # 2 to 6, 0xa, 0xc and its empty slot


def test_loops_count_once_a_turn_and_a_single_block_is_copied_once():
    kernel = read_kernel(SCHEDULE, "k")
    assert kernel == KernelWork(2 + INNER + OUTER + 1, 32 * (66 * 16384 + 100))


def test_a_counter_may_be_kept_in_memory():
    """What is loaded is what an earlier bundle stored last."""
    stored = "%1 = sst [smem:[#allocation7_spill]] %s767_s23 "
    loaded = "%s99_s1 = sld [smem:[#allocation7_spill]] ;; %s250_s23 = sadd.s32 2, %s99_s1 ;; "
    kept = SCHEDULE.replace("%s250_s23 = sadd.s32 2, %s767_s23 ", stored)
    kept = kept.replace("%p247_p2 = scmp", loaded + "%p247_p2 = scmp")
    assert stored in kept and loaded in kept
    assert read_kernel(kept, "k") == read_kernel(SCHEDULE, "k")
    with pytest.raises(Uncounted):
        read_kernel(kept.replace(stored, stored + ";; " + stored.replace("767", "768")), "k")


@pytest.mark.parametrize(
    "known, unknown",
    [
        ("totalorder %s250_s23, 32", "totalorder %s250_s23, %s99_s1"),
        ("sadd.s32 2, %s767_s23", "sadd.s32 %s98_s1, %s767_s23"),
        ("%s903_s23 = smov 0", "%s903_s23 = sld [smem:[#allocation43_spill]]"),
        ("/* loop exit test */ }\n   0x9", "}\n   0x9"),
    ],
)
def test_a_loop_of_unknown_trips_refuses_the_kernel(known, unknown):
    assert known in SCHEDULE
    with pytest.raises(Uncounted, match="%k .a kernel with a loop of unknown trips"):
        read_kernel(SCHEDULE.replace(known, unknown), "k")


def test_a_loop_may_carry_its_counter_in_a_slot_that_is_used_again():
    slot, before = "[smem:[#allocation7_spill]]", SCHEDULE
    for known, carried in (
        ("%s767_s23 = sphi %s903_s23, %s250_s23 /* phi copy */", f"%s767_s23 = sld {slot}"),
        ("%s903_s23 = smov 0 }", f"%s903_s23 = smov 0 ;; sst {slot} %s250_s23 }}"),
        ("   0x7 LB", f"   0x6   : > {{ %s9 = smov 0 ;; sst {slot} %s9 }}\n   0x7 LB"),
    ):
        assert known in before
        before = before.replace(known, carried, 1)
    assert read_kernel(before, "k").bundles == read_kernel(SCHEDULE, "k").bundles + 66


def test_the_schedule_of_equal_kernels_is_written_once(tmp_path):
    call = f'{BIG} custom-call(%x), custom_call_target="tpu_custom_call", backend_config='
    kernel = lambda number, code: f'%k.{number} = {call}{{"body":"{code}"}}'
    (tmp_path / "1-k.1-01-final_bundles.txt").write_text(SCHEDULE)
    seconds = lambda *lines: program_seconds(program(lines), place("tpu-v5e"), tmp_path).total
    one = seconds(f"ROOT {kernel(1, 'a')}")
    assert seconds(kernel(1, "a"), f"ROOT {kernel(2, 'a')}") == pytest.approx(2 * one)
    with pytest.raises(Uncounted, match=r"k\.2"):
        seconds(kernel(1, "a"), f"ROOT {kernel(2, 'b')}")


def test_a_kernel_takes_the_larger_of_its_bundles_and_its_bytes(tmp_path):
    text = program(
        [f'ROOT %k.1 = {BIG} custom-call(%x), custom_call_target="tpu_custom_call"'],
    )
    v5e = place("tpu-v5e")
    with pytest.raises(Uncounted, match="tpu_custom_call"):
        program_seconds(text, v5e, tmp_path)
    for name in ("1-k.10-01-final_bundles", "1-k.1-00-schedule-analysis_final_bundles"):
        (tmp_path / f"{name}.txt").write_text("")
    (tmp_path / "1-k.1-01-final_bundles.txt").write_text(SCHEDULE)
    kernel = find_kernel(tmp_path, "k.1")
    found = program_seconds(text, v5e, tmp_path)
    assert found.kernels == found.total == pytest.approx(kernel.bytes / v5e.target.bandwidth)
    fewer = SCHEDULE.replace("granules=*/16384", "granules=*/1")
    (tmp_path / "2-k.1-01-final_bundles.txt").write_text(fewer)  # the last one counts
    found = program_seconds(text, v5e, tmp_path)
    assert found.total == pytest.approx(kernel.bundles / v5e.target.clock)
    clear_schedules(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_flags_name_the_directory(monkeypatch, tmp_path):
    monkeypatch.delenv(FLAGS, raising=False)
    assert dump_directory() is None and find_kernel(None, "k") is None
    monkeypatch.setenv(FLAGS, f"--other=1 {dump_flags(tmp_path)}")
    assert dump_directory() == Path(tmp_path)


COMPILE = """
import jax, jax.numpy as jnp
jax.config.update("jax_platforms", "cpu")
from jax.experimental import pallas as pl
from jax.sharding import SingleDeviceSharding
from seqarch.costs.bundles import dump_directory, find_kernel
from seqarch.costs.devices import place
from seqarch.costs.time import program_seconds

def kernel(x, o):
    add = lambda i, total: total + jnp.tanh(x[pl.ds(i * 8, 8), :])
    o[...] = jax.lax.fori_loop(0, 32, add, jnp.zeros((8, 512), jnp.float32))

def fn(x):
    spec = lambda rows: pl.BlockSpec((rows, 512), lambda i, j: (i, j))
    shape = jax.ShapeDtypeStruct((128, 2048), jnp.float32)
    call = dict(grid=(16, 4), in_specs=[spec(256)], out_specs=spec(8), out_shape=shape)
    return pl.pallas_call(kernel, **call, name="summed")(x)

v5e = place("tpu-v5e")
given = SingleDeviceSharding(v5e.devices()[0])
x = jax.ShapeDtypeStruct((4096, 2048), jnp.float32, sharding=given)
text = jax.jit(fn).trace(x).lower(lowering_platforms=("tpu",)).compile().as_text()
(name,) = {line.split("%")[1].split(" ")[0] for line in text.splitlines() if "tpu_custom" in line}
counted = find_kernel(dump_directory(), name)
turns, size = 16 * 4, 4096 * 2048 * 4
assert size <= counted.bytes < 1.2 * size, counted
assert 4 * 32 * turns < counted.bundles < 40 * 32 * turns, counted  # 4 registers are added a turn
assert program_seconds(text, v5e, dump_directory()).kernels >= size / v5e.target.bandwidth
"""


@pytest.mark.slow
def test_a_kernel_that_libtpu_compiles_is_counted(tmp_path):
    """In a process of its own, as libtpu reads its flags once."""
    if not importlib.util.find_spec("libtpu"):
        pytest.skip("libtpu is not installed")
    environment = os.environ | {FLAGS: dump_flags(tmp_path)}
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
