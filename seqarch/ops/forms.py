"""The forms of an op: one function, arranged in several ways, and which of them each platform
prefers.
"""

from collections.abc import Callable

import jax

from seqarch.errors import unknown


def family(platform: str) -> str:
    """ "cpu", "gpu" or "tpu", of what a device calls its platform."""
    return {"cuda": "gpu", "rocm": "gpu"}.get(platform, platform)


class Forms(dict[str, Callable]):
    """From a form's name to its callable; tests and benchmarks iterate over it.

    cpu, accelerator: the names that method="auto" stands for on a CPU and on a GPU or TPU. They
    differ because a `lax.scan` over tokens is a loop turn on a CPU but a kernel launch a token
    elsewhere.
    """

    def __init__(self, forms: dict[str, Callable], *, cpu: str, accelerator: str):
        super().__init__(forms)
        self._auto = {"cpu": cpu, "gpu": accelerator, "tpu": accelerator}

    def auto(self, platform: str) -> str:
        """The preferred form's name on `platform`: "cpu", "gpu" or "tpu"."""
        if platform not in self._auto:
            raise unknown("platform", platform, self._auto)
        return self._auto[platform]

    def pick(self, method: str) -> Callable:
        """The callable of `method`; "auto" is this process's default backend. Raises UserError."""
        name = self.auto(jax.default_backend()) if method == "auto" else method
        if name not in self:
            raise unknown("form", name, self)
        return self[name]
