"""The registry of mixers. A mixer outside the repository is named `package.module:Class` instead."""

import importlib

from seqarch.errors import UserError, unknown
from seqarch.mixers.attention import Attention
from seqarch.mixers.base import SequenceMixer
from seqarch.mixers.gru import GRU
from seqarch.mixers.linear_attention import LinearAttention
from seqarch.mixers.mamba import Mamba

MIXERS: dict[str, type[SequenceMixer]] = {
    "attention": Attention,
    "gru": GRU,
    "linear_attention": LinearAttention,
    "mamba": Mamba,
}


def resolve_mixer(name: str) -> type[SequenceMixer]:
    """The class of a mixer's name; raises UserError."""
    if ":" not in name:
        if name not in MIXERS:
            raise unknown("mixer", name, MIXERS)
        return MIXERS[name]
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise UserError(f"cannot load the mixer {name!r}; give package.module:Class")
    try:
        mixer = getattr(importlib.import_module(module), attribute)
        if not (isinstance(mixer, type) and issubclass(mixer, SequenceMixer)):
            raise UserError(f"{name!r} is no mixer; give a subclass of seqarch.mixers.base.SequenceMixer")
        return mixer
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UserError(f"cannot load the mixer {name!r}: {error}; give package.module:Class, importable from here") from error
