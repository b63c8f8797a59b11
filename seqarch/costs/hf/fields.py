"""The fields of a config.json, with one line for each that is missing or has no usable value."""

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from seqarch.errors import UserError, unknown

LARGEST = 2**40  # of any count
MOST_LAYERS = 10_000


class HFFields:
    """The fields of a config, whose methods check what they return.

    A field that is null counts as missing, except for `has` and `optional`.
    """

    def __init__(self, values: Mapping[str, Any], path: str):
        """Takes the values by name, and the path of their file, which errors name."""
        self._values = values
        self._path = path

    def get(self, name: str) -> Any:
        """Returns the value of a field; None where it is missing."""
        return self._values.get(name)

    def has(self, name: str) -> bool:
        """Returns whether there is a field, which may be null."""
        return name in self._values

    def count(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """Returns a whole number.

        Args:
          names: the field's name, and after it the names that it had before.
          default: what is returned where it is missing; None: it must be there.
          least: the least number that it may be.

        Raises:
          UserError: where it is missing, and where it is no such number.
        """
        name, value = self._first(names, default)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if name and not (is_whole and least <= value <= LARGEST):
            raise self.error(
                f"{name} is {reprlib.repr(value)}; give a whole number from {least} to 2^40"
            )
        return value

    def _first(self, names: tuple[str, ...], default: Any) -> tuple[str | None, Any]:
        """Returns the first of several fields that is there and its value, or None and `default`.

        Raises:
          UserError: where none is there and `default` is None.
        """
        for name in names:
            if (value := self.get(name)) is not None:
                return name, value
        if default is None:
            raise self.error(f"{names[0]} is missing; a {self.get('model_type')} config has it")
        return None, default

    def optional(self, name: str, absent: int | None = None) -> int | None:
        """Returns a whole number of at least 1, None for null, and `absent` without the field."""
        if not self.has(name):
            return absent
        return None if self.get(name) is None else self.count(name)

    def number(self, *names: str, default: float | None = None) -> float:
        """Returns a number above 0, such as an epsilon.

        Args:
          names: the field's name, and after it others that may stand for it.
          default: what is returned where it is missing; None: it must be there.

        Raises:
          UserError: where it is missing, and where it is no such number.
        """
        name, value = self._first(names, default)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name and not (is_number and 0 < value < math.inf):
            raise self.error(f"{name} is {reprlib.repr(value)}; give a number above 0")
        return float(value)

    def choice(self, *names: str, default: str, known: tuple[str, ...]) -> str:
        """Returns a name of `known`, or the default; raises UserError for another value.

        `names` are the field's name, and after it those that it had before.
        """
        name, value = self._first(names, default)
        if value not in known:
            raise self.error(f"{name} is {reprlib.repr(value)}; known: {', '.join(known)}")
        return value

    def inner(self, *names: str) -> "HFFields":
        """Returns the fields of the first of several groups that is there; none has no fields."""
        for name in names:
            value = self.get(name)
            if value is not None and not isinstance(value, dict):
                raise self.error(f"{name} is {reprlib.repr(value)}; give fields")
            if value is not None:
                return HFFields(value, f"{self._path}: {name}")
        return HFFields({}, self._path)

    def flag(self, name: str, default: bool) -> bool:
        """Returns a truth value; raises UserError where the field has another one."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(f"{name} is {reprlib.repr(value)}; give true or false")
        return value

    def depth(self) -> int:
        """Returns the number of layers; raises UserError for more than MOST_LAYERS."""
        layers = self.count("num_hidden_layers", "n_layer")
        if layers > MOST_LAYERS:
            raise self.error(f"num_hidden_layers is {layers}; give at most {MOST_LAYERS:,}")
        return layers

    def quantization(self) -> str:
        """Returns the method by which the weights are quantised; "" where they are not."""
        given = self.get("quantization_config")
        named = given.get("quant_method") if isinstance(given, dict) else None
        return str(named or "unnamed") if given else ""

    def names(self, *fields: str, known: tuple[str, ...]) -> list[str] | None:
        """Returns a list of names of `known`; None where the field is missing.

        Args:
          fields: the field's name, and after it the names that it had before.
          known: the names that it may hold.

        Raises:
          UserError: where it is no list of such names.
        """
        field = next((each for each in fields if self.get(each) is not None), None)
        if field is None:
            return None
        value = self.get(field)
        if not isinstance(value, list) or not 0 < len(value) <= MOST_LAYERS:
            raise self.error(f"{field} is no list of names; give one for each layer")
        for name in value:
            if name not in known:
                raise self.error(str(unknown(f"name in {field}:", str(name)[:40], known)))
        return value

    def divided(self, name: str, by: str) -> int:
        """Returns one field divided by another; raises UserError where a rest is left."""
        whole, parts = self.count(name), self.count(by)
        if whole % parts:
            raise self.error(f"{by} is {parts}, which does not divide {name}, {whole}")
        return whole // parts

    def error(self, text: str) -> UserError:
        """Returns an error that begins with the path of the config."""
        return UserError(f"{self._path}: {text}")
