"""A program: a jitted function with the shapes that it is compiled for.

program = train_program(config, mesh)
program.compile().memory_analysis()
count_flops(program.fn, *program.args)
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jax.stages import Compiled

from seqarch.ops.forms import family
from seqarch.types import PyTree

# Spares half of a compilation on CPU, a third on GPU and there all that grows with a scan's length.
UNOPTIMISED = {
    "cpu": {"xla_backend_optimization_level": 0},
    "gpu": {
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
        "xla_gpu_disable_gpuasm_optimizations": True,
        "xla_disable_hlo_passes": "dynamic-slice-annotator",
    },
}


class Program(NamedTuple):
    """A jitted function with the shapes of its arguments.

    Attributes:
      name: programs of one run that have the same name and the same shapes are the same.
      fn: the jitted function.
      args: shapes, dtypes and shardings of its arguments.
      mesh: the devices that are in force while it is traced; None: those that it sets itself.
    """

    name: str
    fn: Callable
    args: tuple[PyTree, ...]
    mesh: Mesh | None = None

    def compile(self, *, run: bool = True, options: dict[str, Any] | None = None) -> Compiled:
        """Compiles the program for the devices of its arguments, which need not exist.

        Arguments without devices are placed on JAX's default ones.

        Args:
          run: whether it is to be run. Otherwise it tells its memory, which is planned before code
            is optimised; optimisation is then left out where that is possible.
          options: further options of the compiler.
        """
        here = jax.default_backend()
        shardings = (leaf.sharding for leaf in jax.tree.leaves(self.args) if leaf.sharding)
        devices = (device for sharding in shardings for device in sharding.device_set)
        device = next(devices, None)
        platform = family(device.platform) if device else here
        options = ({} if run else UNOPTIMISED.get(platform, {})) | (options or {})
        elsewhere = ({"gpu": "cuda"}.get(platform, platform),)
        with self._in_force():
            lowered = self.fn.trace(*self.args).lower(
                lowering_platforms=None if platform == here else elsewhere
            )
        return lowered.compile(options or None)

    def _in_force(self) -> contextlib.AbstractContextManager:
        if self.mesh is None:
            return contextlib.nullcontext()
        return jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh)


def abstract(tree: PyTree) -> PyTree:
    """Returns the shapes and dtypes of the arrays in `tree`."""
    return jax.eval_shape(lambda tree: tree, tree)
