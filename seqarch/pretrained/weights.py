"""Weights in the format of the package safetensors, in one file or in several with an index."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np

from seqarch.errors import UserError, first_line
from seqarch.files import has_shape, read_json

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = ("F64", "F32", "F16", "BF16")
OTHERS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
OLD_NAMES = {"backbone.embedding.weight": "backbone.embeddings.weight"}  # the first of Mamba's


class Weights(Mapping[str, np.ndarray]):
    """The weights in a directory by name, each read from its file when it is asked for.

    It is a context manager, which closes the files.
    """

    def __init__(self, directory: Path):
        """Opens the files.

        Raises:
          UserError: where there is none, one of an index is missing, one cannot be read, or its
            weights are no floating numbers; and without the package safetensors.
        """
        try:
            import safetensors
        except ImportError as error:
            raise UserError(
                "weights need safetensors; pip install -r requirements-hf.txt"
            ) from error
        self.directory, self._stack = directory, ExitStack()
        self._files: dict[str, tuple[Any, str]] = {}  # the open file and its name there, by name
        with ExitStack() as opened:
            for path in _files(directory):
                try:
                    file = opened.enter_context(safetensors.safe_open(path, framework="numpy"))
                except (OSError, safetensors.SafetensorError) as error:
                    raise UserError(
                        f"{path} is no file of safetensors: {first_line(error)}; copy it again"
                    ) from error
                for name in file.keys():
                    _check_dtype(path, name, file.get_slice(name).get_dtype())
                    self._files[OLD_NAMES.get(name, name)] = file, name
            self._stack = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> np.ndarray:
        file, stored = self._files[name]
        return file.get_tensor(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _files(directory: Path) -> list[Path]:
    """Returns the files of a model's weights."""
    if (directory / FILE).is_file():
        return [directory / FILE]
    index = directory / INDEX
    if not index.is_file():
        other = next((name for name in OTHERS if (directory / name).is_file()), None)
        has = f"it has {other}, which is not read" if other else "it has no weights"
        raise UserError(f"there is no {FILE} or {INDEX} in {directory} ({has}); give a model in it")
    try:
        given = read_json(index)
    except ValueError:
        given = None
    if not has_shape(given, {"weight_map": {"*": str}}):
        raise UserError(f"{index} is no index of weights; copy it again")
    names = sorted(set(given["weight_map"].values()))
    for name in names:
        if Path(name).name != name or not (directory / name).is_file():
            raise UserError(f"{index} names {name}, which is not beside it; copy it there")
    return [directory / name for name in names]


def _check_dtype(path: Path, name: str, dtype: str) -> None:
    if dtype not in DTYPES:
        raise UserError(
            f"{path} has {name} in {dtype}; weights are read in float32, bfloat16, float16 and "
            "float64"
        )
