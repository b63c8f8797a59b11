"""Makes a run of a Hugging Face model, without training.

    python scripts/import_hf.py DIR --workdir=RUN

DIR has the model's config.json, its weights in model.safetensors (or in parts, with their index)
and its tokenizer.json. The families are Llama, Mistral, Qwen2, Qwen3, Mamba, Mamba-2 and
RecurrentGemma. RUN is then a run like any other: eval.py, generate.py, diff.py and report.py read
it. docs/import.md says how two models are compared.
"""

import shlex
from pathlib import Path

from absl import flags

import _root  # noqa: F401
from seqarch.runtime import cli
from seqarch.runtime.accelerator import spare_accelerator

spare_accelerator()  # weights are copied, and nothing is computed
WORKDIR = cli.define_path("workdir", None, "The run's directory, which is made.")
DATA = cli.define_path(
    "data", None, "Prepared text that the run is scored on; default: WORKDIR/text."
)
LENGTH = flags.DEFINE_integer(
    "length", 1024, "Tokens of a window in which text is scored.", lower_bound=1
)
DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Of the computation; parameters are float32."
)
flags.mark_flags_as_required(["workdir"])


def main(path: str) -> None:
    from seqarch.pretrained.run import import_run
    from seqarch.tasks.text.tokenizer import FILE

    options = dict(length=LENGTH.value, dtype=DTYPE.value)
    config = import_run(path, WORKDIR.value, data=DATA.value, **options)
    print(f"wrote {WORKDIR.value}")
    kept, data = (shlex.quote(str(each)) for each in (Path(WORKDIR.value) / FILE, config.data.path))
    if (Path(WORKDIR.value) / FILE).exists():
        print(
            "prepare text for it with python scripts/prepare_data.py --input='texts/**/*.txt' "
            f"--tokenizer={kept} --output={data}"
        )
    else:
        print(f"there is no {FILE} in {path}, so that it reads and writes no text")


if __name__ == "__main__":
    cli.run(main, positional=("DIR",), device=False)
