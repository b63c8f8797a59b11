"""Counts FLOPs in a program's jaxpr, where a loop's body counts once per trip.

XLA's `cost_analysis` counts it only once.

    flops = count_flops(train_step, abstract_state, abstract_batch, abstract_hyper)
    flops.matmul, flops.elementwise, flops.total

Hardware FLOPs are those of the program as it runs (`count_flops`), with recomputation and with the
masked pairs of visible blocks. `seqarch.model_flops` counts those of the
definition.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

ELEMENTWISE = frozenset(
    "add add_any sub mul div rem neg abs sign floor ceil round max min clamp pow integer_pow "
    "square sqrt rsqrt cbrt exp exp2 expm1 log log1p logistic tanh tan sin cos sinh cosh asin acos "
    "atan atan2 asinh acosh atanh erf erfc erf_inv lgamma digamma cumsum cumprod cummax cummin "
    "cumlogsumexp".split()
)
REDUCTIONS = frozenset("reduce_sum reduce_prod reduce_max reduce_min argmax argmin".split())
AT_MOST = re.compile(r"at_most_([\d.]+)_trips")
# JAX's calls of cuDNN's attention: products as long as a key, and as long as a value, for each
# visible pair.
CUDNN = {"dot_product_attention_fwd_wrapper": (1, 1), "dot_product_attention_bwd_wrapper": (3, 2)}
SCATTERS = frozenset(("scatter-add", "scatter_add", "scatter-sub", "scatter_sub", "scatter_mul"))


class Flops(NamedTuple):
    """Floating-point operations of one call, on real numbers.

    matmul: two for each multiply-add of contractions and convolutions (products with padding
      included)
    elementwise: one for each element that an arithmetic or transcendental operation writes, a
      reduction reads or a scatter combines; comparisons, selections, casts, data movement and
      integer arithmetic are free. A complex product counts as six, any other complex operation as
      two
    uncounted_loops: `while` loops of unknown trip count; each counts as one trip
    """

    matmul: float = 0.0
    elementwise: float = 0.0
    uncounted_loops: int = 0

    @property
    def total(self) -> float:
        return self.matmul + self.elementwise

    def times(self, trips: float) -> "Flops":
        """Returns the FLOPs of so many calls; a loop that is not counted stays one."""
        return Flops(self.matmul * trips, self.elementwise * trips, self.uncounted_loops)


def count_flops(fn: Callable, *args: Any) -> Flops:
    """Returns the FLOPs of `fn(*args)`; nothing is computed or compiled.

    Loops count once per trip, a kernel's body once per turn of its grid, a program of single
    devices (`jax.shard_map`) once per device, a `cond` counts its most expensive branch, what
    platforms compute in their own ways counts as on a CPU, recomputation counts again, and
    operations whose results are not used do not count. A loop whose number of trips depends on data
    counts as often as the name of a scope around it says, which is a mean where the loop is inside
    another one:

        with jax.named_scope("at_most_4.5_trips"):
            jax.lax.fori_loop(first, end, body, init)

    Blockwise attention names the trips of rows that are one document each: blocks that causality
    or a window hides do not count, blocks that only packing hides do.

    Args:
      fn: any function that JAX can trace.
      args: its arguments, which may be pytrees of ShapeDtypeStruct.
    """
    return _count(_open(jax.make_jaxpr(fn)(*args)))


def _open(jaxpr: Any) -> Any:
    """Returns the open jaxpr of an open or a closed one."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def _count(jaxpr: Any) -> Flops:
    return add_up(_equation(eqn) for eqn in _live(jaxpr))


def add_up(parts: Iterable[Flops]) -> Flops:
    """Returns the FLOPs of several calls together."""
    return Flops(*(sum(column) for column in zip(Flops(), *parts, strict=True)))


def _live(jaxpr: Any) -> list:
    """Returns the equations on which an output or an effect depends, last one first."""
    needed = {var for var in jaxpr.outvars if not _is_literal(var)}
    live = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not needed.isdisjoint(eqn.outvars):
            needed.update(var for var in eqn.invars if not _is_literal(var))
            live.append(eqn)
    return live


def _is_literal(atom: Any) -> bool:
    return hasattr(atom, "val")


def _equation(eqn: Any) -> Flops:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        return Flops(matmul=_dot(eqn))
    if name == "conv_general_dilated":
        return Flops(matmul=_conv(eqn))
    if name in ELEMENTWISE:
        factor = 3 if name == "mul" and _is_complex(eqn.outvars[0]) else 1
        return Flops(elementwise=factor * _elements(eqn.outvars[0]))
    if name in REDUCTIONS:
        return Flops(elementwise=_elements(eqn.invars[0]))
    if name in SCATTERS:
        return Flops(elementwise=_elements(eqn.invars[2]))
    if name == "scan":
        return _count(_open(params["jaxpr"])).times(params["length"])
    if name == "pallas_call":
        return _count(_open(params["jaxpr"])).times(math.prod(params["grid_mapping"].grid))
    if name in CUDNN:
        return Flops(matmul=_cudnn(eqn, *CUDNN[name]))
    if name == "shard_map":
        return _count(_open(params["jaxpr"])).times(params["mesh"].size)
    if name == "while":
        body = add_up(_count(_open(params[part])) for part in ("cond_jaxpr", "body_jaxpr"))
        trips = _trips(eqn)
        return add_up((body, Flops(uncounted_loops=1))) if trips is None else body.times(trips)
    if name == "cond":
        branches = [_count(_open(branch)) for branch in params["branches"]]
        if platforms := params.get("branches_platforms"):  # forms of one result
            return next(b for b, names in zip(branches, platforms) if not names or "cpu" in names)
        return max(branches, key=lambda flops: flops.total)
    return add_up(_count(_open(inner)) for inner in core.jaxprs_in_params(params))


def _elements(atom: Any) -> float:
    """Returns the number of an array's floating-point numbers, two for each complex element."""
    if not jnp.issubdtype(atom.aval.dtype, jnp.inexact):
        return 0.0
    return math.prod(atom.aval.shape) * (2 if _is_complex(atom) else 1)


def _is_complex(atom: Any) -> bool:
    return jnp.issubdtype(atom.aval.dtype, jnp.complexfloating)


def _dot(eqn: Any) -> float:
    """Returns 2 x elements of the result x contracted elements for each; 8 x for complex ones."""
    (contracted, _), _ = eqn.params["dimension_numbers"]
    terms = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    operations = 8.0 if _is_complex(eqn.outvars[0]) else 2.0
    return operations * math.prod(eqn.outvars[0].aval.shape) * terms


def _conv(eqn: Any) -> float:
    """Returns 2 x elements of the result x weights for each; a kernel has its group's channels."""
    kernel, features = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"].rhs_spec[0]
    return 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) / kernel[features]


def _cudnn(eqn: Any, of_keys: int, of_values: int) -> float:
    """Returns the operations of cuDNN's attention, of which no key hidden by order has any."""
    (B, T, H, K), (_, S, _, V) = (eqn.invars[i].aval.shape for i in (0, 2))
    seen = np.arange(T) + 1 if "CAUSAL" in eqn.params["mask_type"].name else np.full(T, S)
    pairs = np.minimum(seen, eqn.params["sliding_window_length"] or S).sum()
    return 2.0 * B * H * pairs * (of_keys * K + of_values * V)


def _trips(eqn: Any) -> float | None:
    """Returns the trips of a `while` loop by its literals, or by its innermost scope, or None."""
    trips, named = _literal_trips(eqn), AT_MOST.findall(str(eqn.source_info.name_stack))
    return float(named[-1]) if trips is None and named else trips


def _literal_trips(eqn: Any) -> int | None:
    """Returns the trips of a loop that counts by one from one literal to another; None: another."""
    cond, body = _open(eqn.params["cond_jaxpr"]), _open(eqn.params["body_jaxpr"])
    cond_consts, body_consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    if [eqn.primitive.name for eqn in cond.eqns] != ["lt"] or cond.eqns[0].outvars != cond.outvars:
        return None
    counter, stop = cond.eqns[0].invars
    if _is_literal(counter) or not _is_literal(stop) or cond.invars.index(counter) < cond_consts:
        return None
    position = cond.invars.index(counter) - cond_consts
    start = eqn.invars[cond_consts + body_consts + position]
    adds = [each for each in body.eqns if each.primitive.name == "add"]
    steps = [each for each in adds if body.outvars[position] in each.outvars]
    if not steps or not _is_literal(start):
        return None
    operand, step = steps[0].invars
    counts = operand is body.invars[body_consts + position]
    if not (counts and _is_literal(step) and step.val == 1):
        return None
    return max(0, int(stop.val) - int(start.val))


def loop_turns(fn: Callable, *args: Any) -> int:
    """Returns the number of loop turns that `fn(*args)` computes one after the other.

    The turns of an inner loop count in each turn of the outer one. A loop of unknown trip count has
    one turn.
    """
    return round(_turns(_open(jax.make_jaxpr(fn)(*args))))


def _turns(jaxpr: Any) -> float:
    total = 0
    for eqn in _live(jaxpr):
        inner = [_turns(_open(each)) for each in core.jaxprs_in_params(eqn.params)]
        if eqn.primitive.name in ("scan", "while"):
            trips = eqn.params["length"] if eqn.primitive.name == "scan" else _trips(eqn) or 1
            total += trips * max(1, sum(inner))
        else:
            total += max(inner, default=0) if eqn.primitive.name == "cond" else sum(inner)
    return total
