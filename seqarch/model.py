"""LanguageModel: embedding, layers, unembedding; a training call, prefill and step.

Training scans over the stacked parameters of the layer pattern's periods, so compile time does not
grow with depth; a few layers are unrolled, since a scan stacks what the backward pass needs (a
third more memory on CPUs, on TPUs and GPUs up to twice as much). Prefill and step loop over layers
with a state each: a scan over stacked states would copy every cache at every token.
"""

import copy
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqarch.config import ModelConfig
from seqarch.errors import UserError
from seqarch.layers import Block, RMSNorm, split_rows
from seqarch.mixers import resolve_mixer
from seqarch.mixers.short_conv import ShortConv
from seqarch.ops.numerics import project
from seqarch.patterns import Layer
from seqarch.types import Array, Bool, Float, Int, State

UNROLLED = 4  # layers, at most, that training does not scan over

# Like layers are traced and lowered once, then called; XLA makes one program of the calls.
_prefill, _step = jax.jit(Block.prefill), jax.jit(Block.step)


def _at_precision(method: Callable) -> Callable:
    """`method`, traced with products of parameters at the model's precision (see
    `numerics.project`).
    """

    @functools.wraps(method)
    def run(self: "LanguageModel", *args, **options):
        with jax.default_matmul_precision(self.precision):
            return method(self, *args, **options)

    return run


class LanguageModel(nnx.Module):
    """Next-token logits. A frozen pytree: nothing in it changes after construction, transforms are
    JAX's own.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        stack = config.stack
        self.remat, self.dtype, self.precision = (
            config.remat,
            jnp.dtype(config.dtype),
            config.precision,
        )
        self.repeats = stack.repeats
        embedding = jax.random.normal(rngs.params(), (config.vocab, config.dim)) * config.dim**-0.5
        self.embedding = nnx.Param(embedding, axes=("vocab", "embed"), decay=False, cast=self.dtype)
        period = lambda key: self._blocks(config, stack.period, nnx.Rngs(key))
        self.period = (
            jax.vmap(period)(jax.random.split(rngs.params(), stack.repeats))
            if stack.repeats
            else nnx.List()
        )
        self.tail = self._blocks(config, stack.tail, rngs)
        self.norm = RMSNorm(config.dim, rngs=rngs)
        # variance 1 / D^2 (Yang et al. 2021, "Tensor programs V", table 8): at first every token is
        # about as likely
        head = jax.random.normal(rngs.params(), (config.dim, config.vocab)) / config.dim
        self.head = nnx.Param(head, axes=("embed", "vocab"), cast=self.dtype)

    @_at_precision
    def __call__(
        self,
        tokens: Int[Array, "B T"],
        starts: Bool[Array, "B T"] | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "B T Y"]:
        """Logits in float32, for training: from an empty state.

        starts: first tokens of the documents packed into a row; key: of the dropout, None for none
        """

        def run(x, blocks, first, looped=False):
            layer = (
                jax.checkpoint(Block.__call__, prevent_cse=not looped)
                if self.remat
                else Block.__call__
            )
            for i, block in enumerate(blocks):
                x = split_rows(
                    layer(
                        block,
                        x,
                        starts,
                        key=None if key is None else jax.random.fold_in(key, first + i),
                    )
                )
            return x

        x, width = self._embed(tokens), len(self.period)
        if width:
            firsts = width * jnp.arange(self.repeats)
            looped = self.repeats > 1 and (self.remat or width * self.repeats > UNROLLED)
            body = lambda x, inputs: (run(x, *inputs, looped), None)
            x, _ = jax.lax.scan(body, x, (self.period, firsts), unroll=not looped)
        return self.logits(self.norm(run(x, self.tail, width * self.repeats)))

    @property
    def boundary(self) -> int:
        """The token that begins a document: the vocabulary's last."""
        return self.embedding.shape[0] - 1

    def init_state(self, batch: int, max_len: int) -> tuple[State, ...]:
        """The empty state of every layer; max_len: tokens that a growing state must hold."""
        return tuple(block.mixer.init_state(batch, max_len) for block in self.blocks())

    @_at_precision
    def prefill(
        self,
        tokens: Int[Array, "B T"],
        states: tuple[State, ...],
        starts: Bool[Array, "B T"] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple[State, ...]]:
        """What `logits` reads, for all tokens, and the states after them; see
        SequenceMixer.prefill.
        """
        self.check_room(states, *document_lengths(tokens.shape, starts, lengths))
        x, after = self._embed(tokens), []
        for block, state in zip(self.blocks(), states, strict=True):
            x, state = _prefill(block, x, state, starts, lengths)
            after.append(state)
        return self.norm(x), tuple(after)

    @_at_precision
    def step(
        self, tokens: Int[Array, "B"], states: tuple[State, ...]
    ) -> tuple[Float[Array, "B Y"], tuple[State, ...]]:
        """Logits for one token a row, and the states after it."""
        self.check_room(states, np.ones(tokens.shape, int))
        x, after = self._embed(tokens), []
        for block, state in zip(self.blocks(), states, strict=True):
            x, state = _step(block, x, state)
            after.append(state)
        return self.logits(self.norm(x)), tuple(after)

    def check_room(
        self, states: tuple[State, ...], count: Array | None, begun: Array | None = None
    ) -> None:
        """Refuses tokens that the states have no room for; where a value is traced, the mixers
        answer with NaN.

        Args:
            count: Int[Array, "B"] tokens that continue each row's document.
            begun: Int[Array, "B"] tokens of the longest document that begins among the tokens.

        Raises:
            UserError: where a row is given more tokens than it has room for.
        """
        blocks = list(self.period) * self.repeats + list(self.tail)
        for block, state in zip(blocks, states, strict=True):
            for given, fresh in ((count, False), (begun, True)):
                room = None if given is None else block.mixer.room(state, fresh=fresh)
                if room is None or any(isinstance(x, jax.core.Tracer) for x in (given, room)):
                    continue
                given, room = np.asarray(given), np.asarray(room)
                if (over := np.flatnonzero(given > room)).size:
                    raise UserError(
                        f"row {over[0]} is given {given[over[0]]} tokens and its state has "
                        f"room for {room[over[0]]}; give init_state a larger max_len"
                    )

    @_at_precision
    def logits(self, x: Float[Array, "... D"]) -> Float[Array, "... Y"]:
        return project(x, self.head[...].astype(x.dtype), jnp.float32)

    def blocks(self) -> list[Block]:
        """All blocks from the bottom up, out of their stack."""
        unstacked = (
            jax.tree.map(lambda x: x[i], self.period)
            for i in range(self.repeats if len(self.period) else 0)
        )
        return [block for period in unstacked for block in period] + list(self.tail)

    def unstack(self) -> "LanguageModel":
        """The same function without a stack: what loops of prefill and step want, since `blocks`
        then copies nothing.
        """
        model = copy.copy(self)
        model.period, model.tail, model.repeats = nnx.List(), nnx.List(self.blocks()), 0
        return model

    def serving(self) -> "LanguageModel":
        """Returns the same function for prefill and step: unstacked, its parameters in the dtype
        that computes with them.

        A loop over steps would otherwise keep casts of the parameters beside the parameters. What
        is computed in float32 stays in it. Arrays that need neither a cast nor a slice are shared
        with this model.
        """
        return jax.tree.map(_cast, self.unstack(), is_leaf=_is_variable)

    def _embed(self, tokens: Int[Array, "..."]) -> Float[Array, "... D"]:
        self._check_tokens(tokens)
        # gathered first: its gradient then adds up in float32
        return self.embedding[...][tokens].astype(self.dtype)

    def _check_tokens(self, tokens: Int[Array, "..."]) -> None:
        """Raises UserError for a token outside the vocabulary; traced ones are not checked."""
        if isinstance(tokens, jax.core.Tracer):
            return
        given, size = np.asarray(tokens), self.embedding.shape[0]
        if (wrong := given[(given < 0) | (given >= size)]).size:
            raise UserError(f"there is a token {wrong[0]}; the model's are 0 to {size - 1}")

    def _blocks(self, config: ModelConfig, layers: tuple[Layer, ...], rngs: nnx.Rngs) -> nnx.List:
        def block(layer: Layer) -> Block:
            mixer = resolve_mixer(layer.mixer)(
                config.dim, **dict(layer.options), dtype=self.dtype, rngs=rngs
            )
            if config.conv:
                mixer = ShortConv(mixer, config.dim, width=config.conv, dtype=self.dtype, rngs=rngs)
            parts = dict(mlp=config.mlp, dropout=config.dropout, dtype=self.dtype, rngs=rngs)
            return _scale_residual(Block(mixer, config.dim, **parts), (2 * config.layers) ** -0.5)

        return nnx.List([block(layer) for layer in layers])


def document_lengths(
    shape: tuple[int, int], starts: Bool[Array, "B T"] | None, lengths: Int[Array, "B"] | None
) -> tuple[Array | None, Array | None]:
    """Each row's tokens before its first start, and those of the longest document after; None where
    they are traced.
    """
    if any(isinstance(x, jax.core.Tracer) for x in (starts, lengths)):
        return None, None
    index = np.arange(shape[1])[None]
    valid = (
        index < (np.full(shape[0], shape[1]) if lengths is None else np.asarray(lengths))[:, None]
    )
    if starts is None:
        return valid.sum(1), None
    begin = np.maximum.accumulate(np.where(np.asarray(starts) & valid, index, -1), axis=1)
    after = np.where(valid & (begin >= 0), index - begin + 1, 0)
    return (valid & (begin < 0)).sum(1), after.max(1, initial=0)


def _scale_residual(block: Block, scale: float) -> Block:
    """`block` with its projections to the residual stream scaled, so that the stream's variance
    does not grow with depth (Radford et al. 2019, "Language models are unsupervised multitask
    learners", section 2.3).
    """

    def leaf(param: nnx.Variable) -> nnx.Variable:
        return param.replace(param[...] * scale) if param.get_metadata().get("residual") else param

    return jax.tree.map(leaf, block, is_leaf=_is_variable)


def _cast(param: nnx.Variable) -> nnx.Variable:
    """`param` in the dtype to which every use casts it (metadata `cast`), or as it is."""
    value = param.get_value()
    return param.replace(value.astype(param.get_metadata().get("cast", value.dtype)))


def _is_variable(node: object) -> bool:
    return isinstance(node, nnx.Variable)


def count_parameters(config: ModelConfig) -> int:
    """The number of parameters; nothing is allocated."""
    abstract = jax.eval_shape(
        lambda key: LanguageModel(config, rngs=nnx.Rngs(key)), jax.random.key(0)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(abstract))
