"""The checker of annotated shapes: `install` makes every call of some rooms check its arguments.

It is for tests, and for programs where SEQARCH_CHECK_SHAPES=1; it needs beartype, of the extra dev.
"""

from jaxtyping import install_import_hook

CHECKED = ["seqarch.ops", "seqarch.mixers", "seqarch.layers"]  # with all modules in them


def install() -> None:
    """Checks the calls of all functions in CHECKED that are imported from now on."""
    install_import_hook(CHECKED, "seqarch.shapes.check")


def check(function):
    """Returns `function` with its arguments checked; an int is a float, as everywhere in Python."""
    from beartype import BeartypeConf, beartype

    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
