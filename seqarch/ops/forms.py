"""The forms of an op: one function computed in several ways, of which each platform prefers one."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax

from seqarch.errors import unknown

ACCELERATOR = "accelerator"  # a platform: any GPU or TPU, without kernels


def family(platform: str) -> str:
    """Returns "cpu", "gpu" or "tpu" for the platform of a JAX device."""
    return {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)


class Kernel(NamedTuple):
    """A form that is written for one platform, and that no other can run.

    Where it does not apply, it computes the form of other accelerators.

    Attributes:
      platform: "gpu" or "tpu".
      run: its callable, as those of the op's other forms.
    """

    platform: str
    run: Callable


class Forms(dict[str, Callable]):
    """A dict from a form's name to its callable; tests and benchmarks iterate over it.

    Args:
      forms: those that run on every platform, by name.
      cpu: the name that method="auto" stands for on a CPU.
      accelerator: the same on a GPU or TPU, where each turn of a `lax.scan` over tokens is a
        kernel launch.
      gpu: the same on a GPU; None: `accelerator`.
      tpu: the same on a TPU; None: `accelerator`.
      kernels: forms of one platform, by name; they are no entries of the dict.
    """

    def __init__(
        self,
        forms: dict[str, Callable],
        *,
        cpu: str,
        accelerator: str,
        gpu: str | None = None,
        tpu: str | None = None,
        kernels: Mapping[str, Kernel] = MappingProxyType({}),
    ):
        super().__init__(forms)
        self.kernels = dict(kernels)
        self._auto = {"cpu": cpu, "gpu": gpu or accelerator, "tpu": tpu or accelerator}
        self._auto[ACCELERATOR] = accelerator

    def on(self, platform: str) -> tuple[str, ...]:
        """Returns the names of the forms that a platform can run."""
        own = (name for name, kernel in self.kernels.items() if kernel.platform == platform)
        return (*self, *own)

    def auto(self, platform: str) -> str:
        """Returns the name of the preferred form on a platform.

        Args:
          platform: "cpu", "gpu", "tpu", or ACCELERATOR for any of these: the form without a kernel
            that GPUs and TPUs prefer.

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
        name = self._name(method)
        if name in self.kernels:
            return self.kernels[name].run
        if name not in self:
            raise unknown("form", name, (*self, *self.kernels))
        return self[name]

    def is_tpu_kernel(self, method: str) -> bool:
        """Returns whether a form, named as for `pick`, is a kernel for a TPU."""
        kernel = self.kernels.get(self._name(method))
        return kernel is not None and kernel.platform == "tpu"

    def _name(self, method: str) -> str:
        return self.auto(family(jax.default_backend())) if method == "auto" else method
