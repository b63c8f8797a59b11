"""What a comparison shows: its rows, and one description of its tables that every format is rendered from."""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from seqarch.training.rundir import flatten

MISSING = "\N{EN DASH}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One member of a comparison, or one baseline.

    kind: "model" or "baseline"
    values: what was measured, by the names of eval.json ("quality/bits_per_byte", "memory/state_bytes@1024", ...)
    config: of the run (seqarch.config.to_dict); empty for a baseline
    revision: of the repository when the row was made
    command: what to type to make it again
    """

    name: str
    kind: str
    values: dict[str, Any]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    seeds: dict[str, int] = dataclasses.field(default_factory=dict)
    revision: str = ""
    command: str = ""


class Column(NamedTuple):
    """title: of the column; key: of its value in `fields(row)`; format: a name in FORMATS."""

    title: str
    key: str
    format: str


class Table(NamedTuple):
    title: str
    caption: str
    columns: tuple[Column, ...]


def fields(row: Row) -> dict[str, Any]:
    """Everything that a column can show of a row: its values, flattened, and where they come from.

    A nested dict's entries are named "quality/by_document/hamlet", a config's "config/model.mlp".
    """
    model = row.config.get("model", {})
    flat = {"name": row.name, "kind": row.kind, "revision": row.revision, "command": row.command, "config": row.config}
    flat["seeds"] = ", ".join(f"{name} {seed}" for name, seed in row.seeds.items())
    if model.get("dim"):
        flat["mlp_ratio"] = model["mlp"] / model["dim"]
    for key, value in row.values.items():
        flat.update({f"{key}/{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value})
    return flat | {f"config/{name}": value for name, value in flatten(row.config).items()}


def comparison_tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    """The tables of a comparison that these rows have values for; contexts, works and settings become their columns."""
    makers = (_quality, _evidence, _search, _context, _works, _state, _compiled, _speed, _provenance)
    tables = (make(rows) for make in makers)
    return tuple(table for table in tables if table)


NAME = Column("model", "name", "text")
LETTERS = Column("not told apart", "evidence/letters", "text")


def summary_table(rows: Sequence[Row]) -> Table:
    """Quality and memory at a glance, in the width of a terminal: memory and speed at the longest context measured."""

    def longest(key: str, title: str, format: str) -> tuple[Column, ...]:
        return _at(rows, key, title, format)[-1:]

    lengths = sorted({row.values["quality/context"] for row in rows if "quality/context" in row.values})
    return Table(
        "At a glance",
        "Quality and memory: bits per byte of held-out text, the state of one sequence, the memory of the compiled programs. "
        + _shared(rows, "memory/definition"),
        (
            NAME,
            Column("bits/byte", "quality/bits_per_byte", "bits"),
            *([LETTERS] if _any(rows, LETTERS.key) else []),
            Column("carried", "quality/bits_per_byte_carried", "bits"),
            Column("parameters", "memory/params", "count"),
            *(Column(f"state @ {length:,}", f"memory/state_bytes@{length}", "bytes") for length in lengths),
            *longest("memory/state_bytes", "state", "bytes"),
            *longest("memory/train_bytes", "training", "bytes"),
            *longest("memory/decode_bytes", "decoding", "bytes"),
            *longest("speed/decode_tokens_per_s", "tokens/s", "rate"),
        ),
    )


def _quality(rows: Sequence[Row]) -> Table:
    return Table(
        "Quality",
        "Bits per byte of held-out text, lower is better: over windows, each starting without a past, and with the state "
        "carried over each work from its beginning, as far as it is scored (eval.limit; 0 is all of it). Models have equal "
        "parameters by the width of their MLPs, or, where they have none, by their depth. FLOPs count masked and windowed "
        "attention in full.",
        (
            NAME,
            Column("bits/byte, windows", "quality/bits_per_byte", "bits"),
            Column("bits/byte, carried", "quality/bits_per_byte_carried", "bits"),
            Column("bytes scored", "quality/bytes", "count"),
            Column("parameters", "memory/params", "count"),
            Column("layers", "config/model.layers", "count"),
            Column("MLP width", "config/model.mlp", "count"),
            Column("MLP ratio", "mlp_ratio", "ratio"),
            Column("FLOPs/token, forward", "flops/forward_per_token", "si"),
            Column("FLOPs/token, training", "flops/train_per_token", "si"),
            Column("seeds", "seeds", "text"),
        ),
    )


def _evidence(rows: Sequence[Row]) -> Table | None:
    if not _any(rows, LETTERS.key):
        return None
    return Table(
        "Which differences are differences",
        "Means over seeds of initialisation and data order, on works that nothing was chosen on. Behind the best: with its "
        "95 % interval, from drawing works and seeds with replacement, both paired between models. Models that share a "
        "letter were not told apart; each pair is judged on its own, without a correction for their number.",
        (
            NAME,
            Column("bits/byte", "quality/bits_per_byte", "bits"),
            Column("deviation over seeds", "evidence/deviation", "bits"),
            LETTERS,
            Column("behind the best", "evidence/behind", "bits"),
            Column("from", "evidence/behind_low", "bits"),
            Column("to", "evidence/behind_high", "bits"),
            Column("parameters", "memory/params", "count"),
            Column("learning rate", "config/optim.lr", "text"),
            Column("seeds", "seeds", "text"),
        ),
    )


def _search(rows: Sequence[Row]) -> Table | None:
    rates = _nested(rows, "search")
    return rates and Table(
        "Learning rates",
        "Bits per byte of validation windows after training with each learning rate, from one seed; the best was used. The "
        "grid is the same for all, and goes on where its best value stood at an edge. A dash: not tried, or diverged.",
        (NAME, *(Column(rate, key, "bits") for rate, key in sorted(rates.items(), key=lambda item: float(item[0])))),
    )


def _context(rows: Sequence[Row]) -> Table | None:
    if not contexts(rows, "context/carried"):
        return None
    windows = sorted({row.values["quality/context"] for row in rows if "quality/context" in row.values})
    window = ", ".join(map("{:,}".format, windows))
    return Table(
        "Use of context",
        "Bits per byte of the same bytes after so many tokens of context, the state carried from the first of them on. A "
        f"model that resets its state has the value at the {window} tokens it was trained with for all longer contexts. "
        f"Truncated: the same parameters, in attention layers that see the last {window} tokens only.",
        (
            NAME,
            *_at(rows, "context/carried", "carried", "bits"),
            *_at(rows, "context/truncated", "truncated", "bits"),
        ),
    )


def _works(rows: Sequence[Row]) -> Table:
    works = _nested(rows, "quality/by_document")
    return Table(
        "Quality by work",
        "Bits per byte of each held-out work, over windows. Works differ more than models do: compare within a column.",
        (NAME, *(Column(work.replace("_", " "), key, "bits") for work, key in works.items())),
    )


def _state(rows: Sequence[Row]) -> Table:
    return Table(
        "Parameters and state",
        "Bytes of parameters and optimizer, and the state that decoding one sequence keeps after so many tokens: as measured "
        "here, and of the same model computing in bfloat16, which keys and values follow and recurrent states do not.",
        (
            NAME,
            Column("parameters", "memory/params_bytes", "bytes"),
            Column("optimizer", "memory/optimizer_bytes", "bytes"),
            Column("state dtype", "memory/state_dtype", "text"),
            *_at(rows, "memory/state_elements", "state elements", "count"),
            *_at(rows, "memory/state_bytes", "state", "bytes"),
            Column("dtype in bfloat16", "memory/state_dtype_bfloat16", "text"),
            *_at(rows, "memory/state_bytes_bfloat16", "in bfloat16", "bytes"),
        ),
    )


def _compiled(rows: Sequence[Row]) -> Table:
    kinds = (("train", "training step"), ("prefill", "prefill"), ("decode", "decoding step"))
    columns = (_at(rows, f"memory/{key}_bytes", title, "bytes") for key, title in kinds)
    return Table(
        "Memory of the compiled programs",
        f"Bytes at each context length. {_shared(rows, 'memory/definition')}".strip(),
        (NAME, *(column for group in columns for column in group)),
    )


def _speed(rows: Sequence[Row]) -> Table:
    return Table(
        "Speed",
        "Tokens per second, compilation apart; decoding after a real prefill of so many tokens. "
        + f"Measured on {_shared(rows, 'run/device') or 'devices that are not recorded'}.",
        (
            NAME,
            Column("training", "speed/train_tokens_per_s", "rate"),
            *_at(rows, "speed/prefill_tokens_per_s", "prefill", "rate"),
            *_at(rows, "speed/decode_tokens_per_s", "decoding", "rate"),
            Column("compilation, training", "speed/compile_s", "seconds"),
        ),
    )


def _provenance(rows: Sequence[Row]) -> Table:
    """Settings that differ between models are columns; those that all share are told once, in the caption."""
    settings = [flatten(row.config) for row in rows if row.config]
    names = dict.fromkeys(name for flat in settings for name in flat)
    shared = {n: settings[0].get(n) for n in names if all(flat.get(n) == settings[0].get(n) for flat in settings)}
    text = ", ".join(f"{name}={json.dumps(value)}" for name, value in shared.items())
    return Table(
        "Provenance",
        f"What makes each row again. Settings that all models share: {text or 'none'}.",
        (
            NAME,
            *(Column(name, f"config/{name}", "text") for name in names if name not in shared),
            Column("seeds", "seeds", "text"),
            Column("git revision", "revision", "revision"),
            Column("command", "command", "code"),
        ),
    )


def contexts(rows: Sequence[Row], key: str) -> list[int]:
    """The lengths L for which some row has the value `key@L`, in order."""
    found = (re.fullmatch(re.escape(key) + r"@(\d+)", name) for row in rows for name in row.values)
    return sorted({int(match[1]) for match in found if match})


def _any(rows: Sequence[Row], key: str) -> bool:
    return any(row.values.get(key) not in (None, "") for row in rows)


def _nested(rows: Sequence[Row], name: str) -> dict[str, str]:
    """The entries of the dicts that rows have as values of `name`, and the keys of these entries in `fields`."""
    return {entry: f"{name}/{entry}" for row in rows for entry in row.values.get(name, {})}


def _at(rows: Sequence[Row], key: str, title: str, format: str) -> tuple[Column, ...]:
    return tuple(Column(f"{title} @ {length:,}", f"{key}@{length}", format) for length in contexts(rows, key))


def _shared(rows: Sequence[Row], key: str) -> str:
    """The text that rows have under `key`; where they differ, each with its rows."""
    texts: dict[str, list[str]] = {}
    for row in rows:
        if row.values.get(key):
            texts.setdefault(row.values[key], []).append(row.name)
    return " ".join(texts if len(texts) < 2 else (f"{', '.join(names)}: {text}" for text, names in texts.items()))


def format_bytes(value: float) -> str:
    """1536 as "1.5 KiB"."""
    return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))


def format_si(value: float) -> str:
    """1530000 as "1.53 M"."""
    return _scaled(value, 1000, ("", "k", "M", "G", "T"))


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    power = 0
    while value >= base and power < len(units) - 1:
        value, power = value / base, power + 1
    return f"{value:.0f} {units[power]}".strip() if value >= 100 or power == 0 else f"{value:.3g} {units[power]}"


FORMATS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "size": str,  # a number that is written already
    "code": str,
    "revision": lambda text: re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30}\b", r"\1", text),  # git's commits, shortened
    "bits": "{:.3f}".format,
    "ratio": "{:.2f}".format,
    "count": "{:,}".format,
    "rate": "{:,.0f}".format,
    "seconds": "{:.1f} s".format,
    "bytes": format_bytes,
    "si": format_si,
}


def show(value: Any, format: str) -> str:
    """A value as readers see it; what is missing is an en dash."""
    return MISSING if value is None or value == "" else FORMATS[format](value)
