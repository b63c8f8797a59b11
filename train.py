"""Trains a model: python train.py --config=configs/lm.py:mamba --workdir=RUN
[--config.optim.lr=1e-3 ...]

The same command continues a run that was cut short, by whatever. Ctrl-C and SIGTERM save and exit
with 130 and 143; a second Ctrl-C exits at once; mistakes exit with 2. `bash scripts/keep_running.sh
python train.py ...` starts it again where machines are preempted. RUN then holds config.json,
run.json, metrics.jsonl, TensorBoard events and checkpoints; `python eval.py --workdir=RUN` measures
it.
"""

from absl import flags
from ml_collections import config_flags

from seqarch.runtime import cli

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/FILE.py[:ARGUMENT]; fields are set by --config.FIELD=VALUE."
)
WORKDIR = cli.define_path("workdir", None, "The run's directory; made where there is none.")
STRICT = flags.DEFINE_bool(
    "strict_restore", False, "Refuse a damaged checkpoint, rather than go on from the one before."
)
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    from seqarch.config import parse
    from seqarch.training.loop import train

    train(parse(CONFIG.value), WORKDIR.value, strict_restore=STRICT.value)


if __name__ == "__main__":
    cli.run(main)
