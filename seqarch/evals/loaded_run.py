"""A run as evaluators see it: its model, its config and a split of its data, with what they
share.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.monitoring
from jax.sharding import Mesh
from jax.stages import Compiled

from seqarch.config import Config, MeshConfig
from seqarch.costs.programs import Program
from seqarch.errors import UserError, first_line
from seqarch.model import LanguageModel
from seqarch.runtime.progress import Progress
from seqarch.tasks import make_task
from seqarch.tasks.base import HeldOut, Task
from seqarch.tasks.text.tokens import TokenFile
from seqarch.training.sharding import make_mesh


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run that is measured.

    config: as the run was given it; say: takes lines of progress
    split: the held-out data: what the run's task opens (`Task.open`), of text a TokenFile
    """

    config: Config
    model: LanguageModel
    split: TokenFile | HeldOut
    say: Callable[[str], None]
    _programs: dict[Any, tuple[Compiled, float]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def task(self) -> Task:
        """What the run was trained on."""
        return make_task(self.config)

    @functools.cached_property
    def serving(self) -> LanguageModel:
        """The model as prefill and decoding want it."""
        return self.model.serving()

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The run's, over all devices; where the run's sizes don't fit those of this machine, all
        of them as one axis.
        """
        try:
            return make_mesh(self.config.mesh)
        except UserError as error:
            self.say(f"{error}; measuring on mesh.data=1, mesh.fsdp=-1")
            return make_mesh(MeshConfig())

    def compiled(self, program: Program) -> Compiled:
        """`program` compiled; the same program for the same shapes only once, whichever evaluators
        ask for it.
        """
        return self._compile(program, run=True)[0]

    def planned(self, program: Program) -> Compiled:
        """The same, only to be asked for its memory: not to be run."""
        return self._compile(program, run=False)[0]

    def compile_seconds(self, program: Program) -> float:
        """What compiling `program` takes, with tracing; where JAX's persistent cache spared it, to
        a second.
        """
        return self._compile(program, run=True)[1]

    @contextlib.contextmanager
    def skipping(self, what: str) -> Iterator[list[str]]:
        """Goes on where `what` needs more memory than the device has; collects what is said of
        that.
        """
        skipped: list[str] = []
        try:
            yield skipped
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            skipped.append(f"{what} does not fit the device: {first_line(error)}")
            self.say(skipped[0])

    def counter(self, what: str) -> Callable[[int, int], None]:
        """Returns a callback (done, total) that reports the progress; the first call, which has the
        compilation, tells nothing of the pace.
        """
        return Progress(0, what, rate="a second", say=self.say).reach

    def _compile(self, program: Program, run: bool) -> tuple[Compiled, float]:
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(program.args))
        key, runnable = (program.name, shapes, run), (program.name, shapes, True)
        if runnable in self._programs:
            return self._programs[runnable]
        if key not in self._programs:
            self.say(f"compiling {program.name}")
            start = time.perf_counter()
            # Under the mesh, as in the training loop: it is the same program, which a persistent
            # cache then has.
            with jax.set_mesh(self.mesh), _spared() as spared:
                compiled = program.compile(run=run)
            self._programs[key] = compiled, time.perf_counter() - start + sum(spared)
        return self._programs[key]


@contextlib.contextmanager
def _spared() -> Iterator[list[float]]:
    """Collects the seconds of compilation that JAX's persistent cache saves."""
    spared = []

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/compilation_cache/compile_time_saved_sec":
            spared.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield spared
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
