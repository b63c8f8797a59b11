"""What pyproject.toml says agrees with requirements*.txt, and the package holds its data."""

import glob
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
DATA = PYPROJECT["tool"]["setuptools"]["package-data"]["seqarch"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(name: str) -> list[str]:
    """Returns the requirements of one file, without comments and included files."""
    lines = (ROOT / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-r"))]


def test_requirements_are_the_dependencies_and_those_of_development():
    assert requirements("requirements.txt") == PROJECT["dependencies"] + EXTRAS["dev"]


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"dev"}))
def test_every_other_extra_has_a_requirements_file_of_its_own(extra):
    assert requirements(f"requirements-{extra}.txt") == EXTRAS[extra]


def test_a_dependency_has_a_floor_and_a_ceiling():
    for requirement in PROJECT["dependencies"]:
        assert re.fullmatch(r"[\w-]+>=[\d.]+,<[\d.]+", requirement)


def test_every_data_file_of_the_package_is_declared():
    package = ROOT / "seqarch"
    declared = {
        package / name
        for pattern in DATA
        for name in glob.glob(pattern, root_dir=package, recursive=True)
    }
    present = [path for path in package.rglob("*") if path.is_file()]
    undeclared = {path for path in present if path.suffix not in (".py", ".pyc")} - declared
    assert not undeclared
