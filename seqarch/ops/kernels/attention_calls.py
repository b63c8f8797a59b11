"""Calls of the kernels of attention (seqarch.ops.kernels.attention_kernels), given flat arrays.

Heads lie side by side, as projections leave them, so that nothing is transposed in slow memory.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from seqarch.ops.kernels.attention_kernels import (
    How,
    Turn,
    backward_kernel,
    forward_kernel,
)
from seqarch.ops.kernels.attention_operands import (
    AttentionGradients,
    Documents,
    OperandBlocks,
    RotaryFactors,
)
from seqarch.ops.kernels.block_pairs import Pairs
from seqarch.ops.kernels.call import kernel_call
from seqarch.types import Array, DTypeLike, Float

VMEM = 64 * 2**20  # bytes of fast memory that a kernel may use
DONE = 3  # index of the table Pairs.done


def forward(
    q: Float[Array, "B T HK"],
    k: Float[Array, "B S GK"],
    v: Float[Array, "B S GV"],
    documents: Documents | None,
    factors: RotaryFactors | None,
    pairs: Pairs,
    how: How,
) -> tuple[Float[Array, "B T HV"], Float[Array, "B H 1 T"]]:
    """Returns the averages of the values, and the logs to base 2 of their denominators.

    Args:
      q: queries, head by head.
      k: keys.
      v: values.
      documents: None: every row is one.
      factors: with which queries and keys are rotated; None: they are not.
      pairs: the outer blocks are of queries.
      how: what is fixed.
    """
    (B, T, _), (K, V), size = q.shape, how.lanes, how.size
    at, blocks = OperandBlocks(how, of_q=0, of_k=1), q.shape[2] // K
    out = jax.ShapeDtypeStruct((B, T, blocks * V), q.dtype)
    log_total = jax.ShapeDtypeStruct((B, blocks * how.heads, 1, T), jnp.float32)
    row = (how.heads, 1, size)
    call = _Call(
        "attention_forward",
        partial(forward_kernel, how),
        inputs=[(q, at.queries(K)), (k, at.keys(K, how.share)), (v, at.keys(V, how.share))],
        outputs=[(out, at.queries(V)), (log_total, at.rows())],
        scratch=[pltpu.VMEM(shape, jnp.float32) for shape in (row, row, (V, size))]
        + [pltpu.VMEM((size, K), q.dtype)],
    )
    return call(B, blocks, pairs, documents, factors, at)


def backward(
    q: Float[Array, "B T HK"],
    k: Float[Array, "B S GK"],
    v: Float[Array, "B S GV"],
    o: Float[Array, "B T HV"],
    do: Float[Array, "B T HV"],
    log_total: Float[Array, "B H 1 T"],
    d_log_total: Float[Array, "B H 1 T"],
    factors: RotaryFactors | None,
    sums: AttentionGradients | None,
    documents: Documents | None,
    pairs: Pairs,
    how: How,
) -> AttentionGradients:
    """Returns the gradients for queries, and for keys and values as each query head has them.

    Args:
      q, k, v, factors, documents, how: those of `forward`.
      o: the averages.
      do: the gradients for them.
      log_total: that of `forward`.
      d_log_total: the gradients for natural logs of the denominators.
      sums: gradients to which those of the pairs are added, in their own memory; None: the pairs
        are all.
      pairs: the outer blocks are of keys.
    """
    (B, T, _), S, (K, V) = q.shape, k.shape[1], how.lanes
    at, blocks = OperandBlocks(how, of_q=1, of_k=0), q.shape[2] // K
    made = lambda tokens, lanes: jax.ShapeDtypeStruct((B, tokens, blocks * lanes), q.dtype)
    outputs = [made(T, K), made(S, K), made(S, V)] if sums is None else map(_like, sums)
    specs = [at.queries(K, DONE), at.keys(K), at.keys(V)]
    before = [] if sums is None else zip(sums, [pl.BlockSpec(memory_space=pl.ANY), *specs[1:]])
    call = _Call(
        "attention_backward",
        partial(backward_kernel, how),
        inputs=[
            *((q, at.queries(K)), (k, at.keys(K, how.share)), (v, at.keys(V, how.share))),
            *((o, at.queries(V)), (do, at.queries(V))),
            *((log_total, at.rows()), (d_log_total, at.rows())),
            *before,
        ],
        outputs=list(zip(outputs, specs, strict=True)),
        scratch=_backward_scratch(how, int(pairs.inner.max()) + 1 - how.first, k.dtype),
        kept=0 if sums is None else len(sums),
    )
    return AttentionGradients(*call(B, blocks, pairs, documents, factors, at))


def _backward_scratch(how: How, blocks: int, dtype: DTypeLike) -> list[Any]:
    """Returns the scratch of the backward kernel, for so many blocks of queries."""
    size, (K, V) = how.size, how.lanes
    shapes = [(blocks, K, size), (blocks, how.heads, 1, size), (size, K), (size, V)]
    keys = [pltpu.VMEM(shape, dtype) for shape in ((size, K), (K, size))]
    return keys + [pltpu.VMEM(shape, jnp.float32) for shape in shapes]


def _like(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


class _Call(NamedTuple):
    """A call of a kernel, with the specs of its operands and results.

    The last `kept` inputs are the outputs before the call, in the same memory.
    """

    name: str
    kernel: Callable
    inputs: list[tuple[Array, pl.BlockSpec]]
    outputs: list[tuple[jax.ShapeDtypeStruct, pl.BlockSpec]]
    scratch: list[Any]
    kept: int = 0

    def __call__(
        self,
        rows: int,
        heads: int,
        pairs: Pairs,
        documents: Documents | None,
        factors: RotaryFactors | None,
        at: OperandBlocks,
    ) -> tuple[Array, ...]:
        tables, inputs = [*map(jnp.asarray, pairs)], list(self.inputs)
        if documents is not None:
            tables.append(documents.may)
            inputs += zip(documents[:2], at.documents(), strict=True)
        if factors is not None:
            inputs += zip(factors, at.factors(), strict=True)
        grid = pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(tables),
            grid=(rows, heads, len(pairs.edge)),
            in_specs=[spec for _, spec in inputs],
            out_specs=[spec for _, spec in self.outputs],
            scratch_shapes=self.scratch,
        )
        parallel = pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM
        )
        shapes = [shape for shape, _ in self.outputs]
        options = dict(grid_spec=grid, out_shape=shapes, compiler_params=parallel, name=self.name)
        start = len(tables) + len(self.inputs) - self.kept
        options["input_output_aliases"] = {start + i: i for i in range(self.kept)}
        counts = [4, len(self.inputs), 0, 0, len(shapes)]
        if documents is not None:
            counts[0], counts[2] = 5, 2
        if factors is not None:
            counts[3] = len(factors)
        kernel = partial(_by_role, self.kernel, counts)
        return kernel_call(kernel, **options)(*tables, *(x for x, _ in inputs))


def _by_role(kernel: Callable, counts: Sequence[int], *refs: Any) -> None:
    """Calls a kernel with its references: of tables, inputs, documents, factors, outputs, scratch.

    Args:
      kernel: takes a Turn, inputs, outputs and scratch.
      counts: of the references, but for those of scratch.
      refs: all.
    """
    parts, rest = [], iter(refs)
    for count in counts:
        parts.append(tuple(itertools.islice(rest, count)))
    tables, inputs, documents, factors, outputs = parts
    turn = Turn(pl.program_id(2), tables, documents or None, factors or None)
    kernel(turn, inputs, outputs, tuple(rest))
