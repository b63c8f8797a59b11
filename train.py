"""Trains a model.

    python train.py --config=configs/lm.py:mamba --workdir=RUN [--config.optim.lr=1e-3 ...]

The same command continues a run that was cut short. Ctrl-C and SIGTERM save and exit with 130 and
143; a second Ctrl-C exits at once; mistakes exit with 2. Where machines are preempted, `bash
scripts/keep_running.sh python train.py ...` restarts it. RUN then has config.json, run.json,
metrics.jsonl, TensorBoard events and checkpoints; `python eval.py --workdir=RUN` evaluates it.
"""

from absl import flags

from seqarch.errors import UserError
from seqarch.runtime import cli

CONFIG = cli.define_config()
WORKDIR = cli.define_path(
    "workdir", None, "The run's directory, which is made if it does not exist."
)
STRICT = flags.DEFINE_bool(
    "strict_restore", False, "Refuse a damaged checkpoint instead of using the one before."
)
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    from seqarch.config import parse
    from seqarch.evals.evaluate import choose
    from seqarch.training.loop import train

    if "members" in CONFIG.value:
        raise UserError(
            "--config describes several members; train.py trains one model, as configs/lm.py does; "
            "scripts/compare.py and scripts/memory.py take members"
        )
    config = parse(CONFIG.value)
    choose(config)  # so that what cannot be measured is told before the training, not after it
    train(config, WORKDIR.value, strict_restore=STRICT.value)


if __name__ == "__main__":
    cli.run(main)
