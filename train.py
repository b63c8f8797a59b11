"""Trains a model: python train.py --config=configs/lm.py:mamba --workdir=RUN
[--config.optim.lr=1e-3 ...]

The same command continues a run that was cut short, by whatever. Ctrl-C and SIGTERM save and exit
with 130 and 143; a second Ctrl-C exits at once; mistakes exit with 2. `bash scripts/keep_running.sh
python train.py ...` starts it again where machines are preempted. RUN then holds config.json,
run.json, metrics.jsonl, TensorBoard events and checkpoints; `python eval.py --workdir=RUN` measures
it.
"""

from absl import flags

from seqarch.errors import UserError
from seqarch.runtime import cli

CONFIG = cli.define_config()
WORKDIR = cli.define_path("workdir", None, "The run's directory; made where there is none.")
STRICT = flags.DEFINE_bool(
    "strict_restore", False, "Refuse a damaged checkpoint, rather than go on from the one before."
)
flags.mark_flags_as_required(["config", "workdir"])


def main() -> None:
    from seqarch.config import parse
    from seqarch.training.loop import train

    if "members" in CONFIG.value:
        raise UserError(
            "--config describes several members; train.py trains one model, as configs/lm.py does; "
            "scripts/compare.py and scripts/memory.py take members"
        )
    train(parse(CONFIG.value), WORKDIR.value, strict_restore=STRICT.value)


if __name__ == "__main__":
    cli.run(main)
