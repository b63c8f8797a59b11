"""docs/notebook.ipynb runs on a tiny run."""

import json
import sys
from pathlib import Path

import matplotlib
import pytest

from seqarch.config import Config, DataConfig, ModelConfig
from seqarch.tasks.text import tokens, writer
from seqarch.training.loop import train

NOTEBOOK = json.loads((Path(__file__).parents[2] / "docs/notebook.ipynb").read_text("utf-8"))
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> dict:
    """The names that the notebook's cells define, with runs/tour/mamba/seed-0 of two steps."""
    top = tmp_path_factory.mktemp("notebook")
    documents = [(split, split, b"To be, or not to be. " * 20) for split in tokens.SPLITS]
    writer.write(top / "text", documents, {}, replace=False)
    model = ModelConfig("mamba(state_dim=4)", layers=1, dim=8, mlp=0)
    config = Config(steps=2, batch=2, length=16, model=model, data=DataConfig(str(top / "text")))
    train(config, top / "runs/tour/mamba/seed-0", progress=lambda line: None)
    (top / "docs").mkdir()
    names = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch, matplotlib.rc_context({"backend": "agg"}):
        patch.chdir(top / "docs")
        patch.setattr("sys.path", ["", *sys.path])
        for number, cell in enumerate(CELLS):
            source, name = "".join(cell["source"]), f"docs/notebook.ipynb, code cell {number}"
            exec(compile(source, name, "exec"), names)
        yield names
        names["plt"].close("all")


def test_every_cell_runs(shown):
    run = shown["run"]
    assert run.step == 2 and run.results is None
    assert shown["text"].startswith("To be, or") and len(shown["tokens"]) == 200
    (state,) = set(shown["sizes"][run.config.model.mixer])
    assert state > 0, "of one size at every context"
    cache = shown["sizes"]["attention"]
    for before, after in zip(cache, cache[1:]):
        assert 128 * before < 129 * after / 3, "about four times as much"


def test_the_plots_show_the_run(shown):
    figures = [shown["plt"].figure(number) for number in shown["plt"].get_fignums()]
    assert len(figures) == 2
    training, validation = figures[0].axes[0].lines
    assert training.get_ydata().tolist() == [row["bits_per_byte"] for row in shown["run"].metrics]
    assert validation.get_xdata().tolist() == [2]
    assert [line.get_ydata().tolist() for line in figures[1].axes[0].lines] == list(
        shown["sizes"].values()
    )


def test_the_committed_outputs_are_those_of_one_run_of_all_cells():
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    kinds = [[output["output_type"] for output in cell["outputs"]] for cell in CELLS]
    assert all(kinds) and not {"error"} & {kind for cell in kinds for kind in cell}
    assert "/home/" not in json.dumps(NOTEBOOK) and "/tmp/" not in json.dumps(NOTEBOOK)
