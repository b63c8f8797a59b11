"""Parses the command line into `flags.FLAGS`, and turns every failure into a UserError."""

import math
import re

from absl import flags
from ml_collections import ConfigDict

from seqarch.errors import UserError, unknown
from seqarch.runtime import overrides

INT_END = 2**31  # the first number that an integer flag without an upper bound refuses


def parse_flags(argv: list[str], positional: tuple[str, ...] = (), more: bool = False) -> list[str]:
    """Parses `argv` into `flags.FLAGS`, by absl and config_flags.

    Args:
      argv: the command line.
      positional: names of the positional arguments.
      more: whether further positional arguments may follow.

    Returns:
      The positional arguments.

    Raises:
      UserError: at every failure.
    """
    argv = overrides.with_config_found(argv)
    try:
        rest = flags.FLAGS(argv)
        for name in flags.FLAGS:  # a config file that could not be read raises here
            getattr(flags.FLAGS[name].value, "lock", None)
    except flags.UnrecognizedFlagError as error:
        raise _unknown_flag(error.flagname, argv) from error
    except UserError:
        raise
    except (flags.Error, OSError, TypeError, LookupError, AttributeError) as error:
        raise overrides.explain(argv) or _flag_error(str(error), argv) from error
    except (Exception, SystemExit) as error:  # of the config file's own code
        said = f"the config file fails: {type(error).__name__}: {error}"
        raise overrides.explain(argv) or UserError(one_line(said)) from error
    _check_values(argv)
    if len(rest) > 1 + len(positional) and not more:
        raise UserError(
            f"unexpected argument {rest[1 + len(positional)]!r}; flags look like --name=value, and "
            "a pattern such as '*.txt' needs quotes"
        )
    if len(rest) <= len(positional):
        wanted = " ".join(positional) + (f" [{positional[-1]} ...]" if more else "")
        raise UserError(f"{positional[len(rest) - 1]} is missing; give {wanted}")
    return rest[1:]


def _check_values(argv: list[str]) -> None:
    """Raises UserError for values that the parsers accept and no program can use."""
    for flag in flags.FLAGS.get_key_flags_for_module(argv[0]):
        value, parser = flag.value, flag.parser
        bounded = getattr(parser, "upper_bound", None) is not None
        if type(value) is int and not bounded and abs(value) >= INT_END:
            raise UserError(f"--{flag.name} is {value}; give a number below 2^31")
        if type(value) is float and not math.isfinite(value):
            raise UserError(f"--{flag.name} is {value}; give a finite number")
    config = flags.FLAGS["config"].value if "config" in flags.FLAGS else None
    if config is not None and not isinstance(config, ConfigDict):
        raise overrides.no_config(config)
    overrides.check_tuples(argv, config)


def _unknown_flag(name: str, argv: list[str]) -> UserError:
    if name.startswith("config."):
        return UserError(f"--{name} overrides a field of --config=FILE, which was not given")
    known = [f"--{flag.name}" for flag in flags.FLAGS.get_key_flags_for_module(argv[0])]
    return unknown("flag", f"--{name}", known)


def _flag_error(text: str, argv: list[str]) -> UserError:
    """Returns the error for a message of absl or config_flags."""
    if "Flag --config must have a value" in text:
        return overrides.missing_config(argv)
    return UserError(one_line(text))


def one_line(text: str) -> str:
    """Returns a message of absl, config_flags or Python as one line that helps the user."""
    # A TypeError or ValueError in get_config comes with its traceback.
    if "Error whilst parsing config file" in text:
        return "the config file fails: " + text.strip().splitlines()[-1]
    for pattern, answer in _ANSWERS:
        if match := re.search(pattern, text):
            return match.expand(answer)
    return re.sub(r"\s*\n\s*", "; ", text.strip())


# Messages of absl, config_flags and Python, and those that replace them.
_ANSWERS = (
    (r"Unable to open flagfile: .*: (.+)$", r"no flag file \1; give a file of flags, one a line"),
    (
        r"No such file or directory: (.+)$",
        r"no config file \1; they are in configs/, such as configs/lm.py:mamba",
    ),
    (
        r"earlier failure to load: Path to config file is an empty",
        r"--config is empty; give a file",
    ),
    (r"earlier failure to load: .*?\] (.+): (.+)$", r"cannot read the config file \2: \1"),
    # config_flags defines the overrides again each time that a file is given.
    (r"is defined twice", r"--config is given twice; give it once"),
    (
        r"Found (--\S+) in argv before a value for --config",
        r"give --config=FILE before \1, which overrides one of its fields",
    ),
    (r"has no attribute 'get_config'", r"the config file has no get_config; see configs/lm.py"),
    (r"Flag (--\S+) must have a value", r"\1=VALUE is required"),
    (r"Missing value for flag (--.+)", r"\1 has no value; give \1=VALUE"),
    (r"flag (--.+): invalid literal for int\(\)", r"\1: expected a whole number, such as 1000"),
    (r"flag (--.+): could not convert string to float", r"\1: expected a number, such as 1e-3"),
    (r"flag (--.+): \('Non-boolean argument", r"\1: expected true or false"),
)
