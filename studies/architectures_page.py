"""docs/architectures.md: all mixers, with the equations that their files open with."""

import inspect
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from seqarch import records
from seqarch.costs.memory import elements, tree_bytes
from seqarch.flops import count_flops
from seqarch.mixers import FAMILIES, resolve_mixer
from seqarch.mixers.base import SequenceMixer
from seqarch.report import members
from seqarch.report.abilities import ability_tables
from seqarch.report.render import markdown_table
from seqarch.report.tables import Column, Row, Table

WIDTH = 256  # of the layers in the table
CONTEXTS = (4096, 1 << 20)  # tokens of decoding
ROWS = (4096, 65536)  # tokens of a training row
HEAD = f"""# Architectures

Every mixer is one file in `seqarch/mixers/` and works wherever a layer pattern is asked for:

    python train.py --config=configs/lm.py:gated_deltanet --workdir=runs/gdn
    python train.py --config="configs/probes.py:mqar,mamba2(state_dim=64)" --workdir=runs/mamba2
    python scripts/check_mixer.py rg_lru

All obey one law, which `tests/laws/test_laws.py` tests for each: training in parallel, a prompt and
decoding step by step are the same function, in values, states and gradients.

The table has one layer of width {WIDTH} in float32 with the options that a mixer has by default.
*state*: bytes that one sequence keeps after so many tokens. *constant*: whether the state has the
same size at every context. *decoding*: FLOPs of one step after so many tokens. *training*: FLOPs a
token of the forward pass over a row of so many, in the form for a CPU: where they grow with the
row, the row's total grows faster than its length. *forms*: how a training row is computed, and
which form is the default on a CPU and on accelerators; of a nonlinear cell, only newton is parallel
in time. The numbers are those of arrays and of traced programs; `python scripts/docs.py` makes this
page from the source.
"""
MEASURED = """
## What each can do

Small models of two layers, trained on generated tasks: [abilities.md](abilities.md) says how, and
its [report](abilities/report.md) has every seed and the command of each run.

![What does each recall?](abilities/figures/ability-against-long-state.svg)
"""
COLUMNS = (
    Column("mixer", "code"),
    Column("family"),
    Column("parameters", "count"),
    *(Column(f"state @ {n:,}", "bytes") for n in CONTEXTS),
    Column("constant"),
    *(Column(f"decoding @ {n:,}", "count") for n in CONTEXTS),
    *(Column(f"training @ {n:,}", "count") for n in ROWS),
    Column("forms"),
)


def architectures_page(docs: Path) -> str:
    """Returns docs/architectures.md: a table of all mixers, their probes, and their equations."""
    rows, sections = [], []
    for family, names in FAMILIES.items():
        sections.append(f"## {family[0].upper()}{family[1:]}\n")
        for name in names:
            kind = resolve_mixer(name)
            rows.append(_row(name, family, kind))
            equations = inspect.cleandoc(sys.modules[kind.__module__].__doc__)
            sections.append(f"### {name}\n\n{equations}\n")
    table = markdown_table(Table("Architectures", "", COLUMNS, tuple(rows)))
    return "\n".join([HEAD, table, *_abilities(docs / "abilities" / records.NAME), "", *sections])


def _abilities(path: Path) -> list[str]:
    """Returns what every mixer came to on the probes of a comparison, where there are records."""
    if not path.exists():
        return []
    return [MEASURED, markdown_table(ability_tables(members.read(path))[0])]


def _row(name: str, family: str, kind: type[SequenceMixer]) -> Row:
    form = {"method": kind.forms.auto("cpu")} if kind.forms else {}
    mixer = jax.eval_shape(lambda: kind(WIDTH, **form, rngs=nnx.Rngs(0)))
    states = [
        jax.eval_shape(lambda mixer: mixer.init_state(1, length), mixer) for length in CONTEXTS
    ]
    x = jax.ShapeDtypeStruct((1, WIDTH), jnp.float32)
    flops = [round(count_flops(kind.step, mixer, x, state).total) for state in states]
    constant = "yes" if mixer.constant_state else "no"
    trained = [_training_flops(mixer, length) for length in ROWS]
    sizes = elements(mixer), *map(tree_bytes, states)
    return Row((name, family, *sizes, constant, *flops, *trained, _forms(kind)))


def _training_flops(mixer: SequenceMixer, length: int) -> int:
    """Returns the FLOPs a token of the forward pass over a row."""
    row = jax.ShapeDtypeStruct((1, length, WIDTH), jnp.float32)
    return round(count_flops(type(mixer).__call__, mixer, row).total / length)


def _forms(kind: type[SequenceMixer]) -> str:
    """Returns the names of a mixer's forms, with the platforms on which one is the default."""
    if kind.forms is None:
        return "–"
    defaults = {platform.upper(): kind.forms.auto(platform) for platform in ("cpu", "gpu", "tpu")}
    if defaults["GPU"] == defaults["TPU"]:
        defaults = {"CPU": defaults["CPU"], "accelerators": defaults["GPU"]}
    texts = []
    for form in (*kind.forms, *kind.forms.kernels):
        on = ", ".join(platform for platform, default in defaults.items() if default == form)
        texts.append(f"{form} ({on})" if on else form)
    return "; ".join(texts)
