"""AdamW (Loshchilov and Hutter 2019) with warm-up, cosine decay and clipping by the global norm.

    m_t = b1 m_{t-1} + (1 - b1) g_t,  v_t = b2 v_{t-1} + (1 - b2) g_t^2
    p_t = p_{t-1} - lr_t (m^_t / (sqrt(v^_t) + eps) + weight_decay p_{t-1})
    m^_t = m_t / (1 - b1^t),  v^_t = v_t / (1 - b2^t)

The learning rate and the weight decay are arguments, not constants, so that a whole run can be
vmapped over them.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from seqarch.config import Config, OptimConfig
from seqarch.types import Array, Float, Int, PyTree


def schedule(config: Config, step: Int[Array, ""]) -> Float[Array, ""]:
    """The factor on the peak learning rate at `step`, from 0: linear to 1, then half a cosine to
    `final_lr` at the last.
    """
    warmup, final = config.optim.warmup, config.optim.final_lr
    rise = (step + 1) / max(warmup, 1)
    progress = jnp.clip((step - warmup) / max(config.steps - 1 - warmup, 1), 0, 1)
    return jnp.minimum(rise, 1) * (final + (1 - final) * 0.5 * (1 + jnp.cos(jnp.pi * progress)))


def init(config: OptimConfig, model: PyTree) -> optax.ScaleByAdamState:
    """Zero moments, each with its parameter's shape and metadata, so that both are sharded
    alike.
    """
    return _adam(config).init(model)


def update(
    config: OptimConfig,
    grads: PyTree,
    state: optax.ScaleByAdamState,
    model: PyTree,
    lr: Float[Array, ""],
    weight_decay: Float[Array, ""],
) -> tuple[PyTree, optax.ScaleByAdamState]:
    """One step of AdamW; parameters with the metadata `decay=False` are not decayed."""
    directions, state = _adam(config).update(grads, state)

    def move(param: nnx.Variable, direction: nnx.Variable) -> nnx.Variable:
        value, by = param.get_value(), direction.get_value()
        if param.get_metadata().get("decay", True):
            by = by + weight_decay * value
        return param.replace(value - lr * by)

    return jax.tree.map(
        move, model, directions, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    ), state


def clip(grads: PyTree, limit: float, norm: Float[Array, ""]) -> PyTree:
    """`grads`, whose global norm is `norm`, scaled down to a global norm of at most `limit`."""
    scale = jnp.minimum(1, limit / norm)
    return jax.tree.map(lambda grad: grad * scale, grads)


def _adam(config: OptimConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.b1, config.b2)
