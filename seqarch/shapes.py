"""Checks the annotated shapes of arguments at every call of the modules in CHECKED.

Tests and programs with SEQARCH_CHECK_SHAPES=1 use it. It needs beartype, of the extra `dev`.
"""

from jaxtyping import install_import_hook

CHECKED = ["seqarch.ops", "seqarch.mixers", "seqarch.layers"]  # with their submodules


def install() -> None:
    """Has the calls of all functions in CHECKED checked that are imported from now on."""
    install_import_hook(CHECKED, "seqarch.shapes.check")


def check(function):
    """Returns `function` with its arguments checked; an int passes for a float."""
    from beartype import BeartypeConf, beartype

    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)
