"""Resident memory, by the system's own numbers."""

import sys

import jax
import numpy as np
import pytest

from seqarch.runtime import resident

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SIZE = 64 << 20


def test_the_peak_keeps_what_was_freed_until_it_is_reset():
    start = resident.reset_peak()
    block = np.ones(SIZE, np.uint8)
    assert resident.resident() - start > 0.9 * SIZE
    del block
    assert resident.resident_peak() - start > 0.9 * SIZE
    assert resident.reset_peak() - start < 0.5 * SIZE
    assert resident.resident_peak() - start < 0.5 * SIZE


def test_a_device_that_does_not_tell_is_the_process():
    device = jax.local_devices()[0]
    assert device.memory_stats() is None
    assert abs(resident.used(device) - resident.resident()) < SIZE


@pytest.mark.parametrize(
    "group, limit",
    [
        ("0::/pod/task", "sys/fs/cgroup/pod/memory.max"),
        ("4:memory:/docker/1", "sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ],
)
def test_memory_is_what_a_container_is_allowed(group, limit, tmp_path, monkeypatch):
    for name, text in (("proc/self/cgroup", f"9:cpu:/\n{group}\n"), (limit, f"{SIZE}\n")):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    unlimited = tmp_path / "sys/fs/cgroup/memory.max"
    unlimited.write_text("max\n")
    found = list(resident.group_limits(tmp_path))
    assert found == [SIZE]
    monkeypatch.setattr(resident, "group_limits", lambda: iter(found))
    assert resident.capacity(jax.local_devices()[0], 2) == SIZE // 2
