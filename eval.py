"""Measures a run.

    python eval.py --workdir=RUN [--split=test] [--only=quality,memory]

The evaluators that the run's config names measure its latest checkpoint: quality on held-out text
or a probe's accuracy, memory, FLOPs and speed. Writes RUN/records.jsonl and TensorBoard events, and
prints tables.
"""

from pathlib import Path

from absl import flags

from seqarch.runtime import cli

WORKDIR = cli.define_path("workdir", None, "The run's directory, the --workdir of train.py.")
SPLIT = flags.DEFINE_string("split", "validation", "The held-out data: validation or test.")
ONLY = flags.DEFINE_list(
    "only", [], "Evaluators to run, such as quality,memory; default: those of the config."
)
ALLOW_MODULES = cli.define_allow_modules()
flags.mark_flags_as_required(["workdir"])


def main() -> None:
    from seqarch.evals.evaluate import evaluate
    from seqarch.records import NAME
    from seqarch.report.events import write_evaluation
    from seqarch.report.single import run_text

    results = evaluate(
        WORKDIR.value, split=SPLIT.value, only=ONLY.value, allow_modules=ALLOW_MODULES.value
    )
    write_evaluation(results, Path(WORKDIR.value))
    print(run_text(results))
    print(f"\nwrote {Path(WORKDIR.value) / NAME}")


if __name__ == "__main__":
    cli.run(main)
