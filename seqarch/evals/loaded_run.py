"""LoadedRun: a run as evaluators see it, with its model, its config and a split of its data."""

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
from seqarch.costs.program import Program
from seqarch.errors import UserError, first_line
from seqarch.model import LanguageModel
from seqarch.runtime.progress import Progress, Say
from seqarch.tasks import make_task
from seqarch.tasks.base import Task
from seqarch.tasks.rows import HeldOut
from seqarch.tasks.text.tokens import TokenFile
from seqarch.training.sharding import make_mesh


@dataclasses.dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run that is measured.

    Attributes:
      config: the run's config, as it was given.
      model: its trained model.
      split: the held-out data that its task opens (`Task.open`); a TokenFile if the task is text.
      say: takes lines of progress.
    """

    config: Config
    model: LanguageModel
    split: TokenFile | HeldOut
    say: Say
    _programs: dict[Any, tuple[Compiled, float]] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def task(self) -> Task:
        """The task that the run was trained on."""
        return make_task(self.config)

    @functools.cached_property
    def serving(self) -> LanguageModel:
        """The model as prefill and decoding use it."""
        return self.model.serving()

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The run's mesh over all devices; all devices as one axis where they don't fit it."""
        try:
            return make_mesh(self.config.mesh)
        except UserError as error:
            self.say(f"{error}; measuring on mesh.data=1, mesh.fsdp=-1")
            return make_mesh(MeshConfig())

    def compiled(self, program: Program) -> Compiled:
        """Returns a compiled program, which is compiled once for all evaluators."""
        return self._compile(program, run=True)[0]

    def planned(self, program: Program) -> Compiled:
        """Returns a program that is compiled to tell its memory, and that must not be run."""
        return self._compile(program, run=False)[0]

    def compile_seconds(self, program: Program) -> float:
        """Returns the seconds in which a program is traced and compiled.

        Where JAX's persistent cache spared the compilation, they are right to about a second.
        """
        return self._compile(program, run=True)[1]

    @contextlib.contextmanager
    def skipping(self, what: str) -> Iterator[list[str]]:
        """Continues after `what` if it needs more memory than the device has.

        Yields:
          A list, to which one line is then added that says so.
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
        """Returns a callback (done, total) that reports progress.

        The first call does not count towards the pace, since it includes the compilation.
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
            # Under the mesh it is the training loop's program, which a persistent cache may hold.
            with jax.set_mesh(self.mesh), _spared() as spared:
                compiled = program.compile(run=run)
            self._programs[key] = compiled, time.perf_counter() - start + sum(spared)
        return self._programs[key]


@contextlib.contextmanager
def _spared() -> Iterator[list[float]]:
    """Yields a list that collects the seconds of compilation that JAX's persistent cache saves."""
    spared = []

    def listen(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/compilation_cache/compile_time_saved_sec":
            spared.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield spared
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
