"""The table of devices, and the peak rate of one JAX device by it."""

from types import SimpleNamespace

import jax
import pytest

from seqarch.devices import DEVICES, Device, peak_flops
from seqarch.training.meter import total_peak_flops


def device(kind: str) -> SimpleNamespace:
    return SimpleNamespace(device_kind=kind)


def test_every_absent_device_has_a_data_sheet():
    for name, each in DEVICES.items():
        if name != "local":
            assert each.memory >= 16e9 and each.bandwidth > 5e11 and each.flops > 1e14
            assert each.source and each.kind


def test_no_two_devices_share_a_kind():
    """A running device is looked up by its kind."""
    assert len({each.kind for each in DEVICES.values()}) == len(DEVICES)


@pytest.mark.parametrize(
    "kind, flops",
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU7x", 2307e12 / 2),  # one of the two chiplets of a chip
        ("NVIDIA H200", 989e12),
    ],
)
def test_peak_flops_are_those_of_one_jax_device(kind, flops):
    assert peak_flops(device(kind)) == flops


@pytest.mark.parametrize("kind", ["", "cpu", "TPU v5 litepod", "NVIDIA H100 PCIe"])
def test_an_unknown_kind_has_no_peak(kind):
    assert peak_flops(device(kind)) is None


def test_the_cpu_has_no_peak():
    assert peak_flops(jax.devices("cpu")[0]) is None


def test_peaks_of_several_devices_add_up_where_all_are_known(monkeypatch):
    monkeypatch.setitem(DEVICES, "fake", Device("gpu", "Fake", flops=64.0, devices_per_chip=2))
    fakes = [device("Fake")] * 3
    assert total_peak_flops(fakes, "bfloat16") == 96.0
    assert total_peak_flops(fakes, "float32") is None
    assert total_peak_flops([*fakes, device("cpu")], "bfloat16") is None
