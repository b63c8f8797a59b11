"""The mixer of docs/mixer.md is one that a config trains by name, and the paths of README.md exist.

tests/programs/test_check_mixer.py has its law.
"""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seqarch.config import ModelConfig
from seqarch.model import LanguageModel

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/mixer.md").read_text(), re.DOTALL)
    directory = tmp_path_factory.mktemp("package")
    (directory / "my_mixers.py").write_text(code)
    sys.path.insert(0, str(directory))
    yield __import__("my_mixers")
    sys.path.remove(str(directory))


def test_a_config_names_it(module):
    model = LanguageModel(
        ModelConfig(mixer="my_mixers:EMA,gru", layers=2, dim=8, mlp=0), rngs=nnx.Rngs(0)
    )
    assert isinstance(model.period[0].mixer, module.EMA)
    assert jnp.isfinite(jax.jit(lambda model: model(jnp.ones((1, 4), int)))(model)).all()


def test_every_path_that_pages_name_is_there():
    pages = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"))
    pattern = r"\b(?:configs|scripts|tests|seqarch)/[\w./]+\.(?:py|sh)|\brequirements[\w-]*\.txt"
    paths = {path for page in pages for path in re.findall(pattern, page.read_text("utf-8"))}
    assert len(paths) > 15 and "requirements-cuda.txt" in paths
    assert sorted(path for path in paths if not (ROOT / path).exists()) == ["configs/FILE.py"]
