"""The forms of an op: one function computed in several ways, of which each platform prefers one."""

from collections.abc import Callable

import jax

from seqarch.errors import unknown


def family(platform: str) -> str:
    """Returns "cpu", "gpu" or "tpu" for the platform of a JAX device."""
    return {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)


class Forms(dict[str, Callable]):
    """A dict from a form's name to its callable; tests and benchmarks iterate over it.

    Args:
      forms: by name.
      cpu: the name that method="auto" stands for on a CPU.
      accelerator: the same on a GPU or TPU, where each turn of a `lax.scan` over tokens is a
        kernel launch.
    """

    def __init__(self, forms: dict[str, Callable], *, cpu: str, accelerator: str):
        super().__init__(forms)
        self._auto = {"cpu": cpu, "gpu": accelerator, "tpu": accelerator}

    def auto(self, platform: str) -> str:
        """Returns the name of the preferred form on a platform.

        Args:
          platform: "cpu", "gpu" or "tpu".

        Raises:
          UserError: for any other platform.
        """
        if platform not in self._auto:
            raise unknown("platform", platform, self._auto)
        return self._auto[platform]

    def pick(self, method: str) -> Callable:
        """Returns the callable of a form.

        Args:
          method: its name; "auto": the preferred form on this process's default backend.

        Raises:
          UserError: for an unknown name.
        """
        name = self.auto(jax.default_backend()) if method == "auto" else method
        if name not in self:
            raise unknown("form", name, self)
        return self[name]
