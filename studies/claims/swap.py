"""Parameters that one mixer was trained with, read by another that has the same ones."""

import jax
from flax import nnx

from seqarch.config import ModelConfig, with_forms
from seqarch.errors import UserError
from seqarch.model import LanguageModel
from seqarch.training.checkpoint import named


def swapped(model: LanguageModel, config: ModelConfig) -> LanguageModel:
    """The model of `config` with the parameters of `model`, name by name; raises UserError where
    names or shapes differ.
    """
    forms = with_forms(config, jax.default_backend())
    wanted = jax.eval_shape(lambda key: LanguageModel(forms, rngs=nnx.Rngs(key)), jax.random.key(0))
    shapes = lambda tree: {name: leaf.shape for name, leaf in named(tree).items()}
    if shapes(wanted) != shapes(model):
        raise UserError(
            f"{config.mixer!r} has other parameters than the model whose mixers it is to replace"
        )
    return jax.tree.unflatten(
        jax.tree.structure(wanted), [named(model)[name] for name in named(wanted)]
    )
