"""The training loop: from a config and a directory to a trained run; the same call continues one
that was cut short.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import seqarch.config
from seqarch import provenance
from seqarch.config import Config
from seqarch.errors import Diverged, Stopped, UserError
from seqarch.flops import count_flops, forward_flops
from seqarch.runtime.cluster import gather, together
from seqarch.runtime.signals import StopRequests
from seqarch.tasks.text.corpus import locate
from seqarch.tasks.text.loader import Batch, batches
from seqarch.tasks.text.tokens import TokenFile, open_split
from seqarch.training import optim, rundir, sharding
from seqarch.training.checkpoint import Checkpointer
from seqarch.training.logging import Logger, Profile, read_rows
from seqarch.training.meter import Meter, Row, total_peak_flops
from seqarch.training.state import Hyper, TrainState, hyper, make_init
from seqarch.training.validation import make_validate

PATIENCE = 10  # refused steps in a row that end a run
LAST_REFUSED = 2  # refused steps in a row that a run may not end with; one alone may be an outlier
SAY_EVERY = 5.0  # seconds between lines of progress

Say = Callable[[str], None]


def train(
    config: Config,
    workdir: str | os.PathLike,
    *,
    progress: Say | None = None,
    strict_restore: bool = False,
) -> Row:
    """Trains `config` in `workdir` from its latest checkpoint on, and returns the last step's row
    of metrics.jsonl.

    progress: takes lines that say what is being done; default: print
    strict_restore: refuse a damaged checkpoint, rather than go on from the one before
    Raises UserError where the config, the text, the devices or the directory don't fit, and where
    so many steps in a row were refused as not finite that the run has `diverged`. Raises Stopped at
    SIGTERM and Ctrl-C, once it has saved.
    """
    say = (progress or _print) if jax.process_index() == 0 else _silent
    mesh = sharding.make_mesh(config.mesh)
    given, config = config, rundir.settled(workdir, config, sharding.resolve(config, mesh), mesh)
    abstract = sharding.abstract_state(config, mesh)
    sharding.abstract_batch(config, mesh)
    with contextlib.ExitStack() as stack:
        text = together(lambda: _claim(given, workdir, stack, say), UserError)
        stream = dict(
            seed=config.seed.data,
            batch=config.batch,
            length=config.length,
            text=_digest(text["train"]),
        )
        _alike(config, stream["text"], workdir)
        before = rundir.config_before(workdir)
        stack.enter_context(rundir.full_disk_told(workdir))
        stack.enter_context(jax.set_mesh(mesh))
        checkpoints = stack.enter_context(
            Checkpointer(
                Path(workdir) / "checkpoints",
                config.checkpoint.keep,
                stream,
                rundir.deciding_fields(given),
            )
        )
        state = _start(config, mesh, abstract, checkpoints, strict_restore, say)
        start = int(state.step)
        if start == config.steps:
            say(f"{workdir} is trained: {start} steps")
            if jax.process_index() == 0:
                rundir.write_config(
                    workdir, seqarch.config.to_dict(given)
                )  # what may change, such as what eval.py measures
            return next(
                (row for row in reversed(read_rows(workdir)) if row["step"] == start),
                dict(step=start),
            )
        run = _Run(
            config, mesh, text, start, checkpoints, say
        )  # what the model or the text cannot do is told here
        writes = jax.process_index() == 0
        logger = stack.enter_context(Logger(workdir, start, write=writes, say=say))
        if start and before:
            _say_schedule_change(before, given, start, say)
        _record(given, config, before, mesh, run.flops, workdir, start, logger, say)
        if jax.process_index() == 0:
            text["train"].tokenizer.save(
                workdir
            )  # which generate.py needs, wherever the run is taken
        return run.go(state, logger, Profile(workdir, config.profile))


class _Run:
    """One start of the loop: the step, traced, the data from `start` on, and where states go;
    nothing is written yet.
    """

    def __init__(
        self,
        config: Config,
        mesh: Mesh,
        text: dict[str, TokenFile],
        start: int,
        checkpoints: Checkpointer,
        say: Say,
    ):
        self.config, self.mesh, self.checkpoints, self.say = config, mesh, checkpoints, say
        self.text = text["train"]
        self.batches = self._batches(start)
        self.hyper = jax.device_put(hyper(config), NamedSharding(mesh, PartitionSpec()))
        self.train_step = sharding.jit_train_step(config, mesh)
        self.flops = self._count_flops()
        self.validate = make_validate(config, mesh, text["validation"])
        self.said = 0.0

    def go(self, state: TrainState, logger: Logger, profile: Profile) -> Row:
        """Trains from `state` to the last step; returns that step's row."""
        train_step = self._compile()
        with StopRequests() as stops:
            return self._steps(state, train_step, logger, profile, stops)

    def _steps(
        self,
        state: TrainState,
        train_step: Callable,
        logger: Logger,
        profile: Profile,
        stops: StopRequests,
    ) -> Row:
        config, start = self.config, int(state.step)
        tokens_per_byte = len(self.text.tokens) / self.text.bytes
        peak = total_peak_flops(self.mesh.devices.flat, config.model.dtype)
        meter = Meter(config.batch * config.length, self.flops["model"], tokens_per_byte, peak)
        for step, batch in zip(range(start + 1, config.steps + 1), self.batches):
            profile.before(step, state)
            state, metrics = train_step(state, batch, self.hyper)
            profile.after(step, state)
            rows = meter.add(step, metrics, ends_block=step % config.log_every == 0)
            save, validate = (
                _due(step, every, config.steps)
                for every in (config.checkpoint.every, config.eval.every)
            )
            stop = stops.received()
            if save or validate or stop:
                rows += meter.drain()
                if validate:
                    rows[-1]["validation_bits_per_byte"] = self.validate(state.model)
            self._log(rows, logger)
            self.checkpoints.check()
            if save or stop:
                self.checkpoints.save(state)
            if stop:
                profile.stop(state)
                self.checkpoints.wait()  # while a second Ctrl-C still interrupts at once
                raise Stopped(
                    f"stopped at step {step} of {config.steps}, which is saved; the same "
                    "command goes on",
                    stop,
                )
            if save or validate:
                meter.restart()
        profile.stop(state)
        self.checkpoints.wait()  # while a request to stop still waits for it
        return rows[-1]

    def _compile(self) -> Callable:
        self.say("compiling the train step")
        began = time.perf_counter()
        compiled = self.train_step.lower(*self._abstract()).compile()
        self.say(f"compiled in {time.perf_counter() - began:.1f} s")
        return compiled

    def _abstract(self) -> tuple[TrainState, Batch, Hyper]:
        """The train step's arguments, of which only the last holds values."""
        state = sharding.abstract_state(self.config, self.mesh)
        return state, sharding.abstract_batch(self.config, self.mesh), self.hyper

    def _count_flops(self) -> dict[str, float]:
        """FLOPs of one train step on all devices: of the definition and of the program as it runs.

        Each loop of an unknown number of trips counts as one trip among the latter.
        """
        hardware = count_flops(self.train_step, *self._abstract())
        return dict(
            model=step_flops(self.config),
            hardware=hardware.total,
            uncounted_loops=hardware.uncounted_loops,
        )

    def _batches(self, start: int) -> Iterator[Batch]:
        local = batches(
            self.text.tokens,
            boundary=self.text.boundary,
            length=self.config.length,
            batch=self.config.batch,
            seed=self.config.seed.data,
            start=start,
            process=jax.process_index(),
            processes=jax.process_count(),
        )
        return (sharding.put_batch(rows, self.mesh) for rows in local)

    def _log(self, rows: list[Row], logger: Logger) -> None:
        for row in rows:
            logger.log(row)
            if diverged(row, self.config.steps):
                raise Diverged(
                    f"{row['refused']} steps in a row up to step {row['step']} had a loss, "
                    "gradient or update that is not finite and were not applied; lower optim.lr, "
                    "lengthen optim.warmup, or compute in model.dtype=float32"
                )
        if rows and (
            "validation_bits_per_byte" in rows[-1] or time.perf_counter() - self.said > SAY_EVERY
        ):
            self.said = time.perf_counter()
            self.say(_line(rows[-1], self.config.steps))


def diverged(row: Row, steps: int) -> bool:
    """Returns whether a run of `steps` has failed by its `row` of metrics.jsonl.

    That is so after PATIENCE refused steps in a row, or LAST_REFUSED at the run's end, or, in a run
    that is too short for that, where all steps but the first were refused.
    """
    limit = PATIENCE
    if row["step"] == steps:
        limit = max(1, min(LAST_REFUSED, steps - 1))
    return row.get("refused", 0) >= limit


def step_flops(config: Config) -> float:
    """Model FLOPs of one train step over the global batch: the forward pass and a backward pass of
    twice as many.
    """
    model = jax.eval_shape(make_init(config), jax.random.key(0)).model
    return 3 * config.batch * forward_flops(model, config.length).total


def _claim(
    config: Config, workdir: str | os.PathLike, stack: contextlib.ExitStack, say: Say
) -> dict[str, TokenFile]:
    """The text, once the directory is ours until `stack` ends; all that can be wrong on one host
    alone.
    """
    text = {
        split: open_split(locate(config.data.path, config.model.vocab), split)
        for split in ("train", "validation")
    }
    rundir.check(workdir, config)
    if jax.process_index() == 0:
        stack.enter_context(rundir.lock(workdir, say))
    return text


def _alike(config: Config, text: str, workdir: str | os.PathLike) -> None:
    """Raises UserError where processes differ in what they are to do, or in what --workdir is,
    which nothing else would.
    """
    together(lambda: rundir.check_shared(workdir), UserError)
    ours = seqarch.config.flatten(dict(config=seqarch.config.to_dict(config), text=text))
    first, *others = map(json.loads, gather(json.dumps(ours)))
    for index, theirs in enumerate(others, 1):
        for name in [
            name for name in first if name != "config.data.path" and theirs[name] != first[name]
        ]:
            raise UserError(
                f"process 0 has {name}={first[name]!r}, process {index} {theirs[name]!r}; start "
                "the same command on each"
            )


def _start(
    config: Config,
    mesh: Mesh,
    abstract: TrainState,
    checkpoints: Checkpointer,
    strict: bool,
    say: Say,
) -> TrainState:
    """The latest checkpoint's state, or the initial one."""
    size = sum(leaf.size for leaf in jax.tree.leaves(abstract.model))
    say(
        f"{config.model.mixer}: {size:,} parameters on {mesh.size} x "
        f"{mesh.devices.flat[0].device_kind}"
    )
    if whole := sharding.replicated(abstract.model, mesh):
        say(
            f"warning: mesh.fsdp={mesh.shape['fsdp']} divides no axis of {', '.join(whole)}; "
            "every device holds them whole"
        )
    if not checkpoints.steps:
        return sharding.init_state(config, mesh, jax.random.key(config.seed.model))
    state = checkpoints.restore(abstract, strict=strict, say=say)
    step = int(state.step)
    if step > config.steps:
        raise UserError(
            f"the run has {step} steps behind it, more than steps={config.steps}; give more steps"
        )
    say(f"going on from step {step} of {config.steps}")
    return state


def _say_schedule_change(before: Config, config: Config, start: int, say: Say) -> None:
    """Says what other `steps` than at the start before make of the next learning rate.

    Every process calls it: under a mesh, even a scalar is computed on all devices.
    """
    old, new = (
        each.optim.lr * float(optim.schedule(each, jnp.int32(start))) for each in (before, config)
    )
    if before.steps != config.steps:
        say(
            f"warning: steps {before.steps} -> {config.steps} since the start before; "
            f"the learning rate of step {start + 1} is {new:.3g}, it would have been {old:.3g}"
        )


def _record(
    config: Config,
    settled: Config,
    before: Config | None,
    mesh: Mesh,
    flops: dict[str, float],
    workdir: str | os.PathLike,
    start: int,
    logger: Logger,
    say: Say,
) -> None:
    """Writes config.json, run.json, and, where they are new, both to TensorBoard.

    It is called once everything that could refuse has not.
    before: the config of the last start; flops: of one train step, on all devices
    """
    if jax.process_index():
        return
    given = seqarch.config.to_dict(config)
    resolved = seqarch.config.to_dict(settled)
    made = dict(mesh=dict(mesh.shape), step=start, mixer=resolved["model"]["mixer"])
    record = provenance.provenance() | made | dict(flops_per_step=flops)
    if start and (changes := rundir.changes(workdir, record)):
        say(
            f"warning: {changes} since the start before; "
            "the run will not end bit for bit where it would have"
        )
    rundir.write(workdir, given, record)
    logger.set_hparams(seqarch.config.flatten(given))
    if start == 0 or before != config:
        logger.describe(dict(config=resolved, run=record), start)


def _digest(text: TokenFile) -> str:
    return text.meta["splits"][text.split]["sha256"]


def _due(step: int, every: int, last: int) -> bool:
    """Every `every` steps (0: never) and at the last."""
    return step == last or bool(every and step % every == 0)


def _line(row: Row, steps: int) -> str:
    left = (steps - row["step"]) * row["step_seconds"]
    line = (
        f"step {row['step']}/{steps}  {row['bits_per_byte']:.3f} bits/byte  "
        f"{row['tokens_per_s']:,.0f} tokens/s"
    )
    if "validation_bits_per_byte" in row:
        line += f"  validation {row['validation_bits_per_byte']:.3f} bits/byte"
    return line + (f"  {left / 60:.1f} min left" if left >= 60 else f"  {left:.0f} s left")


def _print(line: str) -> None:
    print(line, flush=True)


def _silent(line: str) -> None:
    del line
