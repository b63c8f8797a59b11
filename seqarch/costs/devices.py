"""Placement: chips that programs are compiled for, present or absent.

    placement = place("tpu-v5e:4x4")              # 16 chips; "tpu-v5e" alone is one
    mesh = make_mesh(config.mesh, placement.devices())

Their kinds are those of seqarch.devices.DEVICES. The compilers of TPUs (libtpu) and of NVIDIA GPUs
(XLA's CUDA plugin) need no such device: they compile for a description of it. Sizes and rates are
those of data sheets, except for a TPU's memory, which is the somewhat smaller one that libtpu
offers to programs.
"""

import functools
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.experimental import topologies

from seqarch.costs.compiler import offered
from seqarch.devices import DEVICES, Device
from seqarch.errors import UserError, first_line, unknown
from seqarch.runtime.resident import capacity


class Placement(NamedTuple):
    """Chips of a target.

    Attributes:
      name: as it was given, such as "tpu-v5e:2x2".
      target: their kind.
      shape: that of their grid; () is one chip.
    """

    name: str
    target: Device
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """Number of devices, as JAX and the compiler count them."""
        return self.chips * self.target.devices_per_chip

    @property
    def present(self) -> bool:
        """Whether this machine has its devices."""
        return not self.target.platform

    def devices(self) -> Sequence[jax.Device]:
        """Returns the devices of a mesh, or descriptions of absent ones.

        Raises:
          UserError: where the target's compiler is not installed or has no such grid of chips.
        """
        if self.present:
            return _local(self.shape)
        try:
            return (_tpu_devices if self.target.platform == "tpu" else _gpu_devices)(self)
        except jax.errors.JaxRuntimeError as error:
            raise UserError(
                f"the compiler of {self.name} has no such grid of chips: {first_line(error)}"
            ) from error

    def memory(self, device: jax.Device) -> int:
        """Returns the bytes that one of its devices has for programs.

        A local device has what its allocator says, or its share of the system's memory; a TPU what
        its compiler says; a GPU what its data sheet says.
        """
        if self.present:
            return capacity(device, self.count)
        return offered(device) if self.target.platform == "tpu" else self.target.memory


def place(spec: str) -> Placement:
    """Returns the chips that `spec` names: "gpu-h100", "gpu-h100:8" or "tpu-v5p:2x2x2".

    Raises:
      UserError: for an unknown target, and for chips that cannot be read.
    """
    name, colon, grid = spec.partition(":")
    if name not in DEVICES:
        raise unknown("target", name, DEVICES)
    if colon and not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){0,2}", grid):
        raise UserError(
            f"cannot read the chips of {spec!r}; write their number or their grid, as in "
            f"{name}:8 or {name}:2x4"
        )
    return Placement(spec, DEVICES[name], tuple(map(int, grid.split("x"))) if colon else ())


def sheet_of(target: str) -> str:
    """Returns the target of the same chips that has a data sheet, such as "tpu-v5e" for "local".

    It is the target itself where nothing tells which chips they are, or how they are connected.
    """
    placement = place(target)
    if not placement.present:
        return target
    devices = placement.devices()
    for name, sheet in DEVICES.items():
        grid = _grid(devices, sheet.devices_per_chip)
        if sheet.kind == devices[0].device_kind and grid:
            return name if math.prod(grid) == 1 else f"{name}:{'x'.join(map(str, grid))}"
    return target


def _grid(devices: Sequence[jax.Device], devices_per_chip: int) -> tuple[int, ...]:
    """Returns the sides of the grid that chips fill; () where they don't fill one."""
    apart = [(i // devices_per_chip,) for i in range(len(devices))]
    places = [getattr(device, "coords", at) for device, at in zip(devices, apart, strict=True)]
    sides = tuple(max(axis) - min(axis) + 1 for axis in zip(*places, strict=True))
    while len(sides) > 1 and sides[-1] == 1:
        sides = sides[:-1]
    return sides if math.prod(sides) * devices_per_chip == len(devices) else ()


def _local(shape: tuple[int, ...]) -> Sequence[jax.Device]:
    devices, count = jax.devices(), math.prod(shape)
    if count > len(devices):
        raise UserError(f"local:{count} asks for {count} devices; this machine has {len(devices)}")
    return devices[:count]


@functools.cache
def _tpu_devices(placement: Placement) -> Sequence[jax.Device]:
    _require("libtpu", placement)
    # Keeps libtpu from asking a metadata server about this machine, and from locking it.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    options, axes = dict(placement.target.compiler), placement.target.axes
    grid = "x".join(map(str, (*placement.shape, 1, 1, 1)[: max(axes, len(placement.shape))]))
    name = f"{options.pop('version')}:{grid}"
    options["chips_per_host_bounds"] = [1, 1, 1]
    return topologies.get_topology_desc(name, "tpu", **options).devices


def _gpu_devices(placement: Placement) -> Sequence[jax.Device]:
    _require("jax_plugins.xla_cuda13", placement)
    grid = "x".join(map(str, ((1, 1, 1) + placement.shape)[-3:]))  # slices x hosts x GPUs of a host
    options = dict(target_config=_gpu_config(placement.target), topology=grid)
    return topologies.get_topology_desc(placement.target.kind, "cuda", **options).devices


def _require(module: str, placement: Placement) -> None:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise UserError(
            f"{placement.name} needs its compiler, {module}; pip install -r requirements-aot.txt"
        )


def _gpu_config(target: Device) -> str:
    """Returns XLA's GpuTargetConfigProto of a GPU.

    Limits that all these GPUs share are those of CUDA's compute capabilities 8.0 and 9.0.
    """
    sheet = dict(target.compiler)
    return f"""
platform_name: "CUDA"
device_description_str: "{target.kind}"
runtime_version {{ major: 13 }}
dnn_version_info {{ major: 9 minor: 12 }}
gpu_device_info {{
  cuda_compute_capability {{ {sheet["capability"]} }}
  core_count: {sheet["cores"]}
  fpus_per_core: {sheet["fpus"]}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {sheet["shared_block"]}
  shared_memory_per_core: {sheet["shared"]}
  l2_cache_size: {sheet["l2"]}
  device_memory_size: {target.memory}
  memory_bandwidth: {int(target.bandwidth)}
  clock_rate_ghz: {sheet["clock"]}
}}
"""
