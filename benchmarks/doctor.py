"""What a machine has, which forms it chooses, and how fast it is, as tables for a bug report."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp

from benchmarks.bench import Limits, Timing, measure
from benchmarks.cases import Case, Ready, Sizes, normal
from benchmarks.programs import train_config, train_step_case
from seqarch import tuning
from seqarch.costs.devices import place
from seqarch.costs.programs import serving_model
from seqarch.devices import DEVICES, peak_flops
from seqarch.flops import train_flops
from seqarch.mixers import MIXERS, resolve_mixer
from seqarch.provenance import provenance
from seqarch.report.tables import Column, Row, Table

CORE = ("gru", "attention", "linear_attention", "mamba", "mamba,attention")  # whose step is timed
SIDE = 2048  # of the square matrices of a product
SIZES = Sizes(dim=256, train=(8, 512))
LIMITS = Limits(rounds=(3, 9))


def examine(say: Callable[[str], None]) -> Iterator[Table]:
    """Yields the tables one after the other, as they are measured.

    Args:
      say: takes a line before what takes long.
    """
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
    """Returns the time of a train step of each layer pattern, and what its program needs."""
    timings = measure([train_step_case(pattern, SIZES) for pattern in patterns], LIMITS)
    B, T = SIZES.train
    columns = [Column("layers of"), Column("seconds", "seconds"), Column("tokens/s", "rate")]
    columns += [Column("FLOP/s", "flops"), Column("of the data sheet", "percent")]
    columns += [Column("program", "bytes"), Column("until the first step", "seconds")]
    columns.append(Column("not timed, since"))
    rows = tuple(Row((timing.form, *_step(timing))) for timing in timings)
    caption = (
        f"Two layers of width {SIZES.dim} with MLPs, {B} rows of {T} tokens, float32. FLOPs are "
        "those of the definition."
    )
    return Table("Train steps", caption, tuple(columns), rows)


def _step(timing: Timing) -> tuple:
    if timing.seconds is None:
        return *(None,) * 4, timing.total, timing.start_seconds, timing.skipped
    B, T = SIZES.train
    model = serving_model(train_config(timing.form, 2, SIZES).model)
    rate = B * train_flops(model, T).total / timing.seconds
    peak = peak_flops(jax.local_devices()[0])
    share = rate / peak if peak else None
    speed = timing.seconds, B * T / timing.seconds, rate, share
    return *speed, timing.total, timing.start_seconds, None
