"""Reads the parameters of one mixer by another that has the same ones."""

import jax

from seqarch.config import ModelConfig, with_forms
from seqarch.errors import UserError
from seqarch.model import LanguageModel, abstract_model
from seqarch.training.checkpoint import named


def swapped(model: LanguageModel, config: ModelConfig) -> LanguageModel:
    """Returns the model of `config` with the parameters of `model`, which are matched by name.

    Raises:
      UserError: where names or shapes differ.
    """
    forms = with_forms(config, jax.default_backend())
    wanted = abstract_model(forms)
    if _shapes(wanted) != _shapes(model):
        raise UserError(
            f"{config.mixer!r} has other parameters than the model whose mixers it is to replace"
        )
    parameters = named(model)
    leaves = [parameters[name] for name in named(wanted)]
    return jax.tree.unflatten(jax.tree.structure(wanted), leaves)


def _shapes(model: LanguageModel) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in named(model).items()}
