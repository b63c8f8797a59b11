"""The table of devices, with the sizes and rates of each chip's data sheet.

DEVICES["tpu-v5e"].flops              # 197e12 FLOP/s in bfloat16, of one chip
peak_flops(jax.devices()[0])          # of one JAX device; None for an unknown kind
"""

import dataclasses

import jax

GB, GIB = 10**9, 2**30  # bytes
TERA = 1e12


@dataclasses.dataclass(frozen=True)
class Device:
    """A kind of chip; its numbers are None where there is no data sheet.

    platform: "cpu", "gpu" or "tpu", by which ops choose their forms; "" is the process's own
    kind: `jax.Device.device_kind` of its devices
    memory: bytes of one chip
    bandwidth: bytes/s of that memory
    flops: FLOP/s of dense products in bfloat16
    source: the data sheet
    macs: multiply-adds in bfloat16 that the chip's matrix units do in a cycle; TPUs only
    links: bytes/s of all links to other chips together, in one direction; TPUs only
    axes: number of axes of the grid in which chips are connected
    devices_per_chip: JAX devices per chip, each with an equal share of it
    compiler: the target description for the platform's compiler; see seqarch.costs.devices
    """

    platform: str
    kind: str = ""
    memory: int | None = None
    bandwidth: float | None = None
    flops: float | None = None
    source: str = ""
    macs: int | None = None
    links: float | None = None
    axes: int = 1
    devices_per_chip: int = 1
    compiler: tuple[tuple[str, str], ...] = ()

    @property
    def clock(self) -> float | None:
        """Cycles/s of a TPU's core, at which its matrix units reach `flops`."""
        return self.flops / (2 * self.macs) if self.macs else None


def _tpu(version: str, kind: str, *sizes: float, chip: str = "", axes: int = 3, **more) -> Device:
    """Returns a TPU; `sizes` are memory, bandwidth and FLOP/s, `chip` is the compiler's for it."""
    compiler = (("version", version), *([("chip_config_name", chip)] if chip else []))
    source = f"cloud.google.com/tpu/docs/{version}"
    return Device("tpu", kind, *sizes, source, axes=axes, compiler=compiler, **more)


def _gpu(kind: str, *sizes: float, **sheet: str) -> Device:
    """Returns a GPU; `sizes` are memory, bandwidth and FLOP/s, `sheet` is for the compiler."""
    source = f"NVIDIA's data sheet of {kind}"
    return Device("gpu", kind, *sizes, source, compiler=tuple(sheet.items()))


_HOPPER = dict(
    capability="major: 9",
    cores="132",
    fpus="128",
    shared="233472",
    shared_block="232448",
    l2="52428800",
    clock="1.98",
)
_AMPERE = dict(
    capability="major: 8",
    cores="108",
    fpus="64",
    shared="167936",
    shared_block="166912",
    l2="41943040",
    clock="1.41",
)
_A100, _H100, _H200 = "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3", "NVIDIA H200"

DEVICES: dict[str, Device] = {
    "local": Device(""),
    "tpu-v4": _tpu(
        *("v4", "TPU v4", 32 * GIB, 1228 * GB, 275 * TERA),
        chip="megacore",
        macs=8 * 128**2,
        links=300 * GB,
    ),
    "tpu-v5e": _tpu(
        *("v5e", "TPU v5 lite", 16 * GIB, 819 * GB, 197 * TERA),
        macs=4 * 128**2,
        links=200 * GB,
        axes=2,
    ),
    "tpu-v5p": _tpu(
        *("v5p", "TPU v5", 95 * GIB, 2765 * GB, 459 * TERA), macs=8 * 128**2, links=600 * GB
    ),
    "tpu-v6e": _tpu(
        *("v6e", "TPU v6 lite", 32 * GIB, 1640 * GB, 918 * TERA),
        macs=4 * 256**2,
        links=400 * GB,
        axes=2,
    ),
    # A chip is two chiplets, each of which is a device of JAX and of the compiler.
    "tpu-v7": _tpu(
        *("tpu7x", "TPU7x", 192 * GIB, 7380 * GB, 2307 * TERA),
        macs=2 * 4 * 256**2,
        links=600 * GB,
        devices_per_chip=2,
    ),
    "gpu-a100-80g": _gpu(_A100, 80 * GB, 2039 * GB, 312 * TERA, **_AMPERE),
    "gpu-h100": _gpu(_H100, 80 * GB, 3350 * GB, 989 * TERA, **_HOPPER),
    "gpu-h200": _gpu(_H200, 141 * GB, 4800 * GB, 989 * TERA, **_HOPPER),
}


def peak_flops(device: jax.Device) -> float | None:
    """Returns the peak FLOP/s of a JAX device in bfloat16; None for an unknown kind.

    A JAX device may be a part of a chip: a TPU v7 has half of its chip's rate.
    """
    for known in DEVICES.values():
        if known.flops is not None and known.kind == device.device_kind:
            return known.flops / known.devices_per_chip
    return None
