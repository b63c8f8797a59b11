"""What a machine has, which forms it chooses, and how fast it is, as tables for a bug report."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks.cases import Case, Ready, Sizes, normal
from benchmarks.measure import CaseTiming, Limits, measure
from benchmarks.programs import train_config, train_step_case
from seqarch import tuning
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.devices import place, sheet_of
from seqarch.costs.programs import serving_model
from seqarch.costs.spec import ProgramSpec
from seqarch.costs.speed import speed_records
from seqarch.costs.time import has_estimates
from seqarch.devices import DEVICES, peak_flops
from seqarch.errors import UserError
from seqarch.mixers import MIXERS, resolve_mixer
from seqarch.model_flops import train_flops
from seqarch.provenance import provenance
from seqarch.report.tables import Column, Row, Table
from seqarch.runtime.progress import Say

CORE = ("gru", "attention", "linear_attention", "mamba", "mamba,attention")  # whose step is timed
SIDE = 2048  # of the square matrices of a product
SIZES = Sizes(dim=256, train=(8, 512))
LIMITS = Limits(rounds=(3, 9))


def examine(say: Say) -> Iterator[Table]:
    """Yields the tables one after the other, as they are measured; says what takes long."""
    yield software()
    yield devices()
    yield forms()
    say("timing products")
    yield products()
    say(f"compiling and timing a train step of {len(CORE)} models, some seconds to a minute each")
    yield train_steps(CORE)


def software() -> Table:
    """Returns versions, the revision and the machine."""
    made = provenance()
    rows = [*made["versions"].items(), ("seqarch", made["revision"] or "no git repository")]
    changed = {True: "yes", False: "no", None: None}[made["dirty"]]
    rows += [("changed since", changed), ("system", made["host"]["system"])]
    rows += [("CPU", made["host"]["cpu"]), ("CPUs for this process", made["host"]["cpus"])]
    shown = [Row((name, "not installed" if value is None else str(value))) for name, value in rows]
    return Table("Software", "", (Column("what"), Column("is")), tuple(shown))


def devices() -> Table:
    """Returns the devices that JAX sees, with their memory and the name of their data sheet."""
    rows, local = [], place("local")
    for device in jax.local_devices():
        sheet = [name for name, known in DEVICES.items() if known.kind == device.device_kind]
        found = str(device.id), device.platform, device.device_kind, local.memory(device)
        rows.append(Row((*found, ", ".join(sheet) or "no data sheet")))
    columns = Column("device"), Column("platform"), Column("kind"), Column("memory", "bytes")
    return Table("Devices", "", (*columns, Column("in seqarch/devices.py")), tuple(rows))


def forms() -> Table:
    """Returns the form of each mixer that method=auto stands for here."""
    device = jax.local_devices()[0]
    choices, rows = tuning.tuned(device), []
    for name in MIXERS:
        found = resolve_mixer(name).forms
        if found and name in choices:
            options = ", ".join(f"{option}={value}" for option, value in choices[name].items())
            rows.append(Row((name, options, "scripts/tune.py")))
        elif found:
            rows.append(Row((name, f"method={found.auto(device.platform)}", "default")))
    columns = Column("mixer"), Column("form"), Column("chosen by")
    return Table("Forms", "", columns, tuple(rows))


def products() -> Table:
    """Returns the speed of products of square matrices, and its share of the data sheet's."""
    peak, rows = peak_flops(jax.local_devices()[0]), []
    cases = [_product(dtype) for dtype in ("float32", "bfloat16")]
    for timing in measure(cases, LIMITS):
        rate = None if timing.seconds is None else 2 * SIDE**3 / timing.seconds
        share = rate / peak if rate and peak and timing.form == "bfloat16" else None
        rows.append(Row((timing.form, rate, share)))
    columns = Column("dtype"), Column("FLOP/s", "flops"), Column("of the data sheet", "percent")
    caption = f"Products of {SIDE:,} x {SIDE:,} matrices at JAX's default precision."
    return Table("Products", caption, columns, tuple(rows))


def _product(dtype: str) -> Case:
    def start() -> Ready:
        x = normal(SIDE, SIDE).astype(dtype)
        compiled = jax.jit(jnp.matmul).lower(x, x).compile()
        return Ready(lambda _: compiled(x, x))

    return Case("product", dtype, f"{SIDE}", "forward", start)


def train_steps(patterns: Sequence[str]) -> Table:
    """Returns the time of a train step of each layer pattern, and what its program needs.

    Where the devices have a data sheet, the time that their compiler estimates and that of the
    roofline stand beside the measured one.
    """
    timings = measure([train_step_case(pattern, SIZES) for pattern in patterns], LIMITS)
    expected, sheet = dict.fromkeys(patterns, ()), sheet_of("local:1")
    columns = [Column("layers of"), Column("seconds", "seconds"), Column("tokens/s", "rate")]
    columns += [Column("FLOP/s", "flops"), Column("of the data sheet", "percent")]
    if sheet != "local:1":
        expected = _expected(patterns, sheet)
        columns += [Column("estimated", "seconds"), Column("roofline", "seconds")]
    columns += [Column("program", "bytes"), Column("until the first step", "seconds")]
    columns.append(Column("not timed, since"))
    rows = tuple(Row((timing.form, *_step(timing, expected[timing.form]))) for timing in timings)
    B, T = SIZES.train
    caption = (
        f"Two layers of width {SIZES.dim} with MLPs, {B} rows of {T} tokens, float32. FLOPs are "
        "those of the definition."
    )
    return Table("Train steps", caption, tuple(columns), rows)


def _expected(patterns: Sequence[str], sheet: str) -> dict[str, tuple[float | None, float | None]]:
    """Returns seconds of train steps on a target: estimated by its compiler, and by a roofline."""
    with tempfile.TemporaryDirectory() as directory, MeasurementCache(Path(directory)) as cache:
        return {pattern: _seconds(cache, pattern, sheet) for pattern in patterns}


def _seconds(
    cache: MeasurementCache, pattern: str, sheet: str
) -> tuple[float | None, float | None]:
    B, T = SIZES.train
    spec = ProgramSpec(train_config(pattern, 2, SIZES), "train", B, T, sheet)
    try:
        outcome = cache.measure(spec)
        timing = cache.estimate_all([spec])[0] if has_estimates(place(sheet)) else None
    except UserError:  # the compiler for absent devices is not installed
        return None, None
    found = {record.metric: record.value for record in speed_records(spec, outcome, timing)}
    return found.get("estimated_s"), found.get("bound_s")


def _step(timing: CaseTiming, expected: tuple) -> tuple:
    """Returns the cells of a step, of which `expected` are the seconds that were expected."""
    if timing.seconds is None:
        return *(None,) * 4, *expected, timing.total, timing.start_seconds, timing.skipped
    B, T = SIZES.train
    model = serving_model(train_config(timing.form, 2, SIZES).model)
    rate = B * train_flops(model, T).total / timing.seconds
    peak = peak_flops(jax.local_devices()[0])
    share = rate / peak if peak else None
    speed = timing.seconds, B * T / timing.seconds, rate, share
    return *speed, *expected, timing.total, timing.start_seconds, None
