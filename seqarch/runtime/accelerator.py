"""Finds an accelerator without JAX, and decides whether this process may use it."""

from pathlib import Path

import jax

from seqarch.errors import UserError

# PCI vendor and device of each TPU, as in jax._src.hardware_utils; scripts/env.sh reads them, too.
TPUS = Path(__file__).with_name("tpus.txt")


def accelerator(root: Path = Path("/")) -> str | None:
    """Returns "cuda" or "tpu" where the operating system shows such a device, or None.

    It says nothing of whether JAX can use the device.
    """
    if any((root / "dev" / name).exists() for name in ("nvidia0", "nvidiactl")):
        return "cuda"
    known = TPUS.read_text().splitlines()
    for device in (root / "sys/bus/pci/devices").glob("*"):
        if f"{_read(device / 'vendor')} {_read(device / 'device')}" in known:
            return "tpu"
    return None


def spare_accelerator() -> str | None:
    """Restricts this process to the CPU, so that a process that it starts can use the accelerator.

    Call it before JAX looks for devices.

    Returns:
      JAX_PLATFORMS for the processes that it starts.
    """
    platforms = jax.config.jax_platforms
    jax.config.update("jax_platforms", "cpu")
    return platforms


def check_accelerator() -> None:
    """Raises UserError on the CPU of a machine with an accelerator, unless JAX_PLATFORMS is set."""
    found = None if jax.config.jax_platforms else accelerator()
    if found and jax.default_backend() == "cpu":
        raise UserError(
            f"this machine has a {found.upper()} device but JAX runs on the CPU; "
            f"pip install -r requirements-{found}.txt, or set JAX_PLATFORMS=cpu to mean it"
        )


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
