"""The tables of a comparison: quality and its evidence, state, memory, speed, and where every row comes from."""

import json
from collections.abc import Sequence

from seqarch.measure.programs import PHASES
from seqarch.measure.tables import NAME, Column, Row, Table, columns_at, contexts
from seqarch.training.rundir import flatten

LETTERS = Column("not told apart", "evidence/letters", "text")


def comparison_tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    """The tables of a comparison that these rows have values for; contexts, works and settings become their columns."""
    makers = (_quality, _evidence, _search, _context, _works, _state, _compiled, _speed, _provenance)
    tables = (make(rows) for make in makers)
    return tuple(table for table in tables if table)


def summary_table(rows: Sequence[Row]) -> Table:
    """Quality and memory at a glance, in the width of a terminal: memory and speed at the longest context measured."""

    def longest(key: str, title: str, format: str) -> tuple[Column, ...]:
        return columns_at(rows, key, title, format)[-1:]

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
    hardware = Column("FLOPs/token, training, as run", "flops/train_hardware_per_token", "si")
    as_run = [hardware] if _any(rows, hardware.key) else []
    return Table(
        "Quality",
        "Bits per byte of held-out text, lower is better: over windows, each starting without a past, and with the state "
        "carried over each work from its beginning, as far as it is scored (eval.limit; 0 is all of it). Models have equal "
        "parameters by the width of their MLPs, or, where they have none, by their depth. " + _counted(rows),
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
            *as_run,
            Column("seeds", "seeds", "text"),
        ),
    )


def _counted(rows: Sequence[Row]) -> str:
    """What the rows' FLOPs are; records made before the definition was counted are of the program."""
    if _any(rows, "flops/train_hardware_per_token"):
        return (
            "FLOPs are the definition's, whatever form computes it: visible pairs of tokens count once, a backward pass twice "
            "its forward pass. As run: with what the train step computes again and what its blocks hide."
        )
    return (
        "FLOPs leave out the blocks of attention that causality or a window hides; attention that builds its matrix counts "
        "all of it."
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
            *columns_at(rows, "context/carried", "carried", "bits"),
            *columns_at(rows, "context/truncated", "truncated", "bits"),
        ),
    )


def _works(rows: Sequence[Row]) -> Table | None:
    works = _nested(rows, "quality/by_document")
    if not works:
        return None
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
            *columns_at(rows, "memory/state_elements", "state elements", "count"),
            *columns_at(rows, "memory/state_bytes", "state", "bytes"),
            Column("dtype in bfloat16", "memory/state_dtype_bfloat16", "text"),
            *columns_at(rows, "memory/state_bytes_bfloat16", "in bfloat16", "bytes"),
        ),
    )


def _compiled(rows: Sequence[Row]) -> Table:
    columns = (columns_at(rows, f"memory/{phase}_bytes", title, "bytes") for phase, title in PHASES.items())
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
            *columns_at(rows, "speed/prefill_tokens_per_s", "prefill", "rate"),
            *columns_at(rows, "speed/decode_tokens_per_s", "decoding", "rate"),
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


def _any(rows: Sequence[Row], key: str) -> bool:
    return any(row.values.get(key) not in (None, "") for row in rows)


def _nested(rows: Sequence[Row], name: str) -> dict[str, str]:
    """The entries of the dicts that rows have as values of `name`, and the keys of these entries in `fields`."""
    return {entry: f"{name}/{entry}" for row in rows for entry in row.values.get(name, {})}


def _shared(rows: Sequence[Row], key: str) -> str:
    """The text that rows have under `key`; where they differ, each with its rows."""
    texts: dict[str, list[str]] = {}
    for row in rows:
        if row.values.get(key):
            texts.setdefault(row.values[key], []).append(row.name)
    return " ".join(texts if len(texts) < 2 else (f"{', '.join(names)}: {text}" for text, names in texts.items()))
