"""Measures a run: python eval.py --workdir=RUN [--split=test] [--only=quality,memory]

Quality on held-out text, memory, FLOPs and speed of its latest checkpoint: in RUN/eval.json, TensorBoard and a table.
"""

from absl import flags

from seqarch import cli

WORKDIR = cli.define_path("workdir", None, "The run's directory: what train.py had as --workdir.")
SPLIT = flags.DEFINE_string("split", "validation", "The held-out text: validation or test.")
ONLY = flags.DEFINE_list("only", [], "Evaluators to run, such as quality,memory; default: all.")
ALLOW_MODULES = cli.define_allow_modules()
flags.mark_flags_as_required(["workdir"])


def main() -> None:
    from seqarch.config import to_dict
    from seqarch.measure.evaluate import evaluate
    from seqarch.measure.tables import Row
    from seqarch.training.rundir import stored_config

    values = evaluate(WORKDIR.value, split=SPLIT.value, only=ONLY.value, allow_modules=ALLOW_MODULES.value)
    config = to_dict(stored_config(WORKDIR.value))
    print(summary(Row(WORKDIR.value, "model", values, config, revision=values["run/revision"] or "")))
    print(f"\nwrote {WORKDIR.value}/eval.json")


def summary(row) -> str:
    """What was measured, a line each, under the titles of the comparison's tables."""
    from seqarch.measure.comparison_tables import comparison_tables
    from seqarch.measure.tables import fields, show

    known, lines = fields(row), []
    for table in comparison_tables([row])[:-1]:  # the last is the config
        measured = [column for column in table.columns[1:] if known.get(column.key) not in (None, "")]
        cells = [(column.title, show(known[column.key], column.format)) for column in measured]
        lines += ["", table.title] * bool(cells) + [f"  {title:<36}{cell:>14}" for title, cell in cells]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
