"""AdamW (Loshchilov and Hutter 2019) with warm-up, cosine decay and clipping by the global norm.

    m_t = b1 m_{t-1} + (1 - b1) g_t,  v_t = b2 v_{t-1} + (1 - b2) g_t^2
    p_t = p_{t-1} - lr_t (m^_t / (sqrt(v^_t) + eps) + weight_decay p_{t-1})
    m^_t = m_t / (1 - b1^t),  v^_t = v_t / (1 - b2^t)

The learning rate and the weight decay are traced arguments, so that a run can be vmapped over them.
"""

import jax
import optax
from flax import nnx

from seqarch.config import Config, OptimConfig
from seqarch.types import Array, Float, Int, PyTree


def schedule(config: Config, step: Int[Array, ""]) -> Float[Array, ""]:
    """Returns the factor on the peak learning rate at `step`, which counts from 0.

    It rises linearly over `warmup` steps, from 1 / warmup at step 0, then falls on half a cosine
    from 1 to `final_lr` at the last step.
    """
    warmup = config.optim.warmup
    rise = optax.linear_schedule(1 / max(warmup, 1), 1.0, max(warmup - 1, 1))
    fall = optax.cosine_decay_schedule(
        1.0, max(config.steps - 1 - warmup, 1), alpha=config.optim.final_lr
    )
    return optax.join_schedules([rise, fall], [warmup])(step)


def init(config: OptimConfig, model: PyTree) -> optax.ScaleByAdamState:
    """Returns zero moments with the shapes, metadata and thereby the sharding of the parameters."""
    return optax.scale_by_adam(config.b1, config.b2).init(model)


def update(
    config: OptimConfig,
    grads: PyTree,
    state: optax.ScaleByAdamState,
    model: PyTree,
    lr: Float[Array, ""],
    weight_decay: Float[Array, ""],
) -> tuple[PyTree, optax.ScaleByAdamState]:
    """Returns the model and the moments after one step of AdamW.

    Parameters with the metadata `decay=False` are not decayed. `lr` and `weight_decay` are those of
    this step.
    """
    directions, state = optax.scale_by_adam(config.b1, config.b2).update(grads, state)

    def move(param: nnx.Variable, direction: nnx.Variable) -> nnx.Variable:
        value, by = param.get_value(), direction.get_value()
        if param.get_metadata().get("decay", True):
            by = by + weight_decay * value
        return param.replace(value - lr * by)

    moved = jax.tree.map(
        move, model, directions, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    return moved, state


def clip(grads: PyTree, limit: float) -> PyTree:
    """Returns `grads`, scaled down where their global norm is more than `limit`."""
    return optax.clip_by_global_norm(limit).update(grads, optax.EmptyState())[0]
