"""The accelerator that the operating system shows, and which process may use it."""

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
    """Keeps this process to the CPU and leaves an accelerator, which is for one process, to those
    that it starts.

    Returns JAX_PLATFORMS for them. JAX must not have looked for devices yet.
    """
    platforms = jax.config.jax_platforms
    jax.config.update("jax_platforms", "cpu")
    return platforms


def check_accelerator() -> None:
    """Refuses to run on the CPU of a machine that has an accelerator, unless JAX_PLATFORMS says
    so.
    """
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
