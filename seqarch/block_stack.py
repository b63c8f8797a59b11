"""Blocks on top of each other: how they are made, and the training call of all of them.

Training scans over the stacked parameters of the layer pattern's periods, so compile time does not
grow with depth; a few layers are unrolled, since a scan stacks what the backward pass needs (a
third more memory on CPUs, up to twice as much on TPUs and GPUs). Prefill and step loop over layers
with a state each, because a scan over stacked states would copy every cache at every token.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import Primitive

from seqarch.config import ModelConfig
from seqarch.config.model import is_too_large
from seqarch.errors import UserError, first_line
from seqarch.layers import Block, split_rows
from seqarch.mixers import resolve_mixer
from seqarch.mixers.base import SequenceMixer
from seqarch.mixers.short_conv import ShortConv
from seqarch.patterns import Layer, Stack
from seqarch.types import Array, Float, PyTree

UNROLLED = 4  # layers; a model of at most so many is trained without a scan


class FromStack(NamedTuple):
    """Stands in a block in the place of a parameter that is its stack's `shared`."""


class SharedBlock(nnx.Module):
    """Stands in the place of a block that is one of its stack's `shared_blocks`, by its index."""

    def __init__(self, index: int):
        self.index = index


class BlockStack(nnx.Module):
    """The blocks of a layer pattern, from the bottom up.

    Attributes:
      period: the blocks of one repetition, each with the parameters of all repetitions stacked.
      repeats: the number of repetitions.
      tail: the blocks above them.
      remat: whether the backward pass computes a block's activations again.
      shared: the parameter that layers have in common (see `SequenceMixer`); None: none.
      shared_blocks: the blocks that several layers are, in the order of `Stack.shared`.
    """

    period: nnx.List
    repeats: int
    tail: nnx.List
    remat: bool
    shared: nnx.Param | None
    shared_blocks: nnx.List

    def make_blocks(
        self, stack: Stack, make: Callable[[Layer, nnx.Rngs], Block], *, rngs: nnx.Rngs
    ) -> None:
        """Sets `period`, `repeats`, `tail` and what is shared; called in a constructor.

        Raises:
          UserError: where layers would share parameters of different shapes.
        """
        in_common = stack.shared

        def one(layer: Layer, rngs: nnx.Rngs) -> Block | SharedBlock:
            return SharedBlock(in_common.index(layer)) if layer.shared else make(layer, rngs)

        def several(layers: tuple[Layer, ...], rngs: nnx.Rngs) -> nnx.List:
            return nnx.List([one(layer, rngs) for layer in layers])

        self.repeats, self.period = stack.repeats, nnx.List()
        if stack.repeats:
            keys = jax.random.split(rngs.params(), stack.repeats)
            self.period = jax.vmap(lambda key: several(stack.period, nnx.Rngs(key)))(keys)
        self.tail = several(stack.tail, rngs)
        self.shared_blocks = nnx.List([make(layer, rngs) for layer in in_common])
        self._take_shared()

    def _take_shared(self) -> None:
        """Sets `shared` to the parameter that blocks have in common, and takes it out of them."""
        found = [param.replace(param[...][0]) for param in _shared(self.period)]
        found += _shared((self.tail, self.shared_blocks))
        self.shared = found[0] if found else None
        if len(shapes := {param.shape for param in found}) > 1:
            raise UserError(
                f"layers share one table of relative positions, and theirs are of {sorted(shapes)} "
                "heads and buckets; give each the same heads and relative"
            )
        if found:
            self.period, self.tail = _without_shared(self.period), _without_shared(self.tail)
            self.shared_blocks = _without_shared(self.shared_blocks)

    def run_blocks(
        self, x: Float[Array, "B T D"], *given: Any, key: Array | None
    ) -> Float[Array, "B T D"]:
        """Returns the outputs of the last block, from empty states, for training.

        Args:
          x: inputs of the first.
          given: further arguments of `Block.__call__`.
          key: of dropout; None: nothing is dropped.
        """

        def run(x, blocks, first, looped=False):
            for i, block in enumerate(map(self._whole, blocks)):
                layer = self._checkpointed(block, looped)
                layer_key = None if key is None else jax.random.fold_in(key, first + i)
                x = split_rows(layer(block, x, *given, key=layer_key))
            return x

        width = len(self.period)
        if width:
            firsts = width * jnp.arange(self.repeats)
            looped = self.repeats > 1 and (self.remat or width * self.repeats > UNROLLED)

            def body(x, inputs):
                return run(x, *inputs, looped), None

            x, _ = jax.lax.scan(body, x, (self.period, firsts), unroll=not looped)
        return run(x, self.tail, width * self.repeats)

    def _checkpointed(self, block: Block, looped: bool) -> Callable:
        """Returns the call of a block, which says what the backward pass computes again.

        With `remat` that is all, and else nothing, but in a scan over blocks whose mixers are
        kernels for a TPU: there it is all but the kernels. A TPU takes longer to stack what
        products and norms return, and to read it, than to compute it again.
        """
        if self.remat:
            return jax.checkpoint(Block.__call__, prevent_cse=not looped)
        if looped and block.mixer.is_tpu_kernel:
            return jax.checkpoint(Block.__call__, prevent_cse=False, policy=_is_kernel)
        return Block.__call__

    def blocks(self) -> list[Block]:
        """Returns all blocks from the bottom up, each with its parameters."""
        return [self._whole(block) for block in self._own_blocks()]

    def stacked_blocks(self) -> list[Block]:
        """Returns all blocks; those of repetitions have the parameters of all repetitions."""
        blocks = list(self.period) * self.repeats + list(self.tail)
        return [self._whole(block) for block in blocks]

    def _own_blocks(self) -> list[Block | SharedBlock]:
        """Returns all blocks, without what the stack's layers share."""
        blocks = []
        for i in range(self.repeats if len(self.period) else 0):
            blocks += jax.tree.map(lambda x: x[i], self.period)  # noqa: B023
        return blocks + list(self.tail)

    def _whole(self, block: Block | SharedBlock) -> Block:
        """Returns a block with what the stack's layers share."""
        if isinstance(block, SharedBlock):
            block = self.shared_blocks[block.index]
        if self.shared is None:
            return block
        fill = lambda leaf: self.shared if isinstance(leaf, FromStack) else leaf
        return jax.tree.map(fill, block, is_leaf=_is_parameter)

    def unstack(self) -> Self:
        """Returns the same model without stacked parameters, whose `blocks` copies nothing.

        Loops of prefill and step run faster on it.
        """
        model = copy.copy(self)
        model.period, model.tail, model.repeats = nnx.List(), nnx.List(self._own_blocks()), 0
        return model


def _is_kernel(primitive: Primitive, *_: Any, **__: Any) -> bool:
    return primitive.name == "pallas_call"


def _is_parameter(node: Any) -> bool:
    return isinstance(node, (nnx.Variable, FromStack))


def _is_shared(node: Any) -> bool:
    return isinstance(node, nnx.Variable) and bool(node.get_metadata().get("shared"))


def _shared(tree: PyTree) -> list[nnx.Param]:
    """Returns the parameters that layers have in common."""
    return [leaf for leaf in jax.tree.leaves(tree, is_leaf=_is_parameter) if _is_shared(leaf)]


def _without_shared(tree: PyTree) -> PyTree:
    take = lambda leaf: FromStack() if _is_shared(leaf) else leaf
    return jax.tree.map(take, tree, is_leaf=_is_parameter)


def make_mixer(config: ModelConfig, layer: Layer, rngs: nnx.Rngs) -> SequenceMixer:
    """Returns the mixer of a layer, with its short convolution if there is one.

    Raises:
      UserError: where it refuses its options, or would have an array that no device holds.
    """
    make, dtype = resolve_mixer(layer.mixer), jnp.dtype(config.dtype)
    given = f"{layer} with model.dim={config.dim}; give smaller sizes"
    try:
        mixer = make(config.dim, **dict(layer.options), dtype=dtype, rngs=rngs)
    except (OverflowError, MemoryError) as error:
        raise UserError(f"{first_line(error)}, in {given}") from error
    for leaf in jax.tree.leaves(mixer):
        if is_too_large(leaf.shape):
            raise UserError(f"no device holds a matrix of {leaf.shape}, as in {given}")
    if config.conv:
        mixer = ShortConv(mixer, config.dim, width=config.conv, dtype=dtype, rngs=rngs)
    return mixer


def make_causal(config: ModelConfig, layer: Layer, rngs: nnx.Rngs) -> SequenceMixer:
    """Returns the mixer of a layer that generates tokens.

    Raises:
      UserError: where it sees later tokens.
    """
    mixer = make_mixer(config, layer, rngs)
    if not mixer.causal:
        raise UserError(
            f"model.mixer has {layer}, which sees later tokens and cannot generate any; give it in "
            "model.encoder, or set causal=True"
        )
    return mixer


def make_block(
    config: ModelConfig, mixer: nnx.Module, rngs: nnx.Rngs, cross: nnx.Module | None = None
) -> Block:
    """Returns the block of a mixer, with its projections to the residual stream scaled.

    The stream's variance then does not grow with depth (Radford et al. 2019, "Language models are
    unsupervised multitask learners", section 2.3).
    """
    parts = dict(mlp=config.mlp, dropout=config.dropout, dtype=jnp.dtype(config.dtype), rngs=rngs)
    parts |= dict(norm_eps=config.norm_eps)
    parts |= dict(activation=config.mlp_activation, bias=config.mlp_bias)
    scale = ((2 + (cross is not None)) * config.layers) ** -0.5

    def leaf(param: nnx.Variable) -> nnx.Variable:
        return param.replace(param[...] * scale) if param.get_metadata().get("residual") else param

    block = Block(mixer, config.dim, cross=cross, **parts)
    return jax.tree.map(leaf, block, is_leaf=lambda node: isinstance(node, nnx.Variable))
