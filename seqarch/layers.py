"""The layers around the mixers: projection, norm, gated MLP and residual block."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec

from seqarch.errors import UserError
from seqarch.ops.numerics import project, rms, rows
from seqarch.types import Array, Bool, DTypeLike, Float, Int

ACTIVATIONS = {"silu": jax.nn.silu, "gelu": jax.nn.gelu}  # of MLPs; gelu is the one with tanh


class Linear(nnx.Module):
    """The projection y = x W + b, computed in `dtype`.

    W and b are float32, and their gradients are summed in float32. W is initialised from a
    truncated normal distribution of variance 1 / features_in (LeCun et al. 1998, "Efficient
    backprop", section 4.6), b with zeros.

    Args:
      features_in: channels of x.
      features_out: channels of y.
      axes: logical names of W's axes, from which sharding follows.
      rngs: for W.
      dtype: of the computation.
      bias: whether there is a b.
      residual: whether y is added to the residual stream; LanguageModel then scales W by the depth.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        axes: tuple[str | None, str | None],
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        bias: bool = False,
        residual: bool = False,
    ):
        kernel = nnx.initializers.lecun_normal()(rngs.params(), (features_in, features_out))
        cast = jnp.dtype(dtype)
        self.kernel = nnx.Param(kernel, axes=axes, residual=residual, cast=cast)
        b = None
        if bias:
            b = nnx.Param(jnp.zeros(features_out), axes=axes[1:], decay=False, cast=cast)
        self.bias, self.dtype = b, dtype

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
        y = project(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.dtype)
        return y if self.bias is None else y + rows(self.bias[...], y)


class RMSNorm(nnx.Module):
    """The norm y = x / sqrt(mean(x^2) + eps) * scale, computed in float32.

    With `groups` the mean is that of each of as many groups of neighbouring channels. `eps` must be
    a number above 0.

    Source: Zhang and Sennrich 2019, "Root mean square layer normalization", equation 4.
    """

    def __init__(self, dim: int, *, eps: float = 1e-6, groups: int = 1, rngs: nnx.Rngs):
        if not 0 < eps < math.inf:
            raise UserError(f"norm_eps is {eps}; give a number above 0")
        self.eps, self.groups = eps, groups
        self.scale = nnx.Param(jnp.ones(dim), axes=(None,), decay=False)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        x32 = x.astype(jnp.float32)
        if self.groups > 1:
            x32 = x32.reshape(*x.shape[:-1], self.groups, -1)
        normed = rms(x32, self.eps).reshape(x.shape)
        return (normed * rows(self.scale[...], normed)).astype(x.dtype)


class MLP(nnx.Module):
    """The gated MLP (f(x W_g) * x W_u) W_o.

    Args:
      dim: channels D of x.
      width: inner width F.
      dtype: of the computation.
      rngs: for the weights.
      activation: a name in ACTIVATIONS, that of f.
      bias: whether each of the three projections has a bias.

    Source: Shazeer 2020, "GLU variants improve Transformer", equations 5 and 6.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        activation: str = "silu",
        bias: bool = False,
    ):
        how = dict(rngs=rngs, dtype=dtype, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.gate = Linear(dim, width, ("embed", "mlp"), **how)
        self.up = Linear(dim, width, ("embed", "mlp"), **how)
        self.out = Linear(width, dim, ("mlp", "embed"), **how, residual=True)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return self.out(self.activation(self.gate(x)) * self.up(x))


class Block(nnx.Module):
    """The residual block: x + mixer(norm(x)), then x + mlp(norm(x)).

    In a decoder that reads a source, x + cross(norm(x), source) stands between the two.

    Args:
      mixer: of `dim` channels.
      dim: channels D of the residual stream.
      mlp: inner width F of the MLP; 0 leaves it out.
      dropout: rate of dropout on the two summands, in calls with a key.
      dtype: of the computation.
      rngs: for the parameters of norms and MLP.
      norm_eps: what the norms add to the mean square.
      mlp_options: further options of the MLP.
      cross: cross-attention to a source (`seqarch.cross_attention`); None: there is no source.
    """

    def __init__(
        self,
        mixer: nnx.Module,
        dim: int,
        *,
        mlp: int,
        dropout: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        cross: nnx.Module | None = None,
        norm_eps: float = 1e-6,
        **mlp_options,
    ):
        self.dropout = dropout
        self.mixer_norm, self.mixer = RMSNorm(dim, eps=norm_eps, rngs=rngs), mixer
        self.mlp_norm = RMSNorm(dim, eps=norm_eps, rngs=rngs) if mlp else None
        self.mlp = MLP(dim, mlp, dtype=dtype, rngs=rngs, **mlp_options) if mlp else None
        has_cross = cross is not None
        self.cross_norm = RMSNorm(dim, eps=norm_eps, rngs=rngs) if has_cross else None
        self.cross = cross

    def __call__(
        self,
        x: Float[Array, "B T D"],
        starts: Bool[Array, "B T"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        source: tuple[Float[Array, "B S D"], Int[Array, "B"]] | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "B T D"]:
        """Returns the outputs from an empty state; see SequenceMixer.__call__.

        Args:
          x: inputs.
          starts: whether a token is the first of a document.
          lengths: tokens of each row before its padding; None: all.
          source: the vectors of the encoded source, and their number in each row.
          key: of dropout; None: nothing is dropped.
        """
        keys = (None, None) if key is None else jax.random.split(key)
        # A mixer that defines its own call need not know of lengths, which only encoders have.
        masks = (starts,) if lengths is None else (starts, lengths)
        x = x + self._drop(self.mixer(self.mixer_norm(x), *masks), keys[0])
        if self.cross is not None:
            third = None if key is None else jax.random.fold_in(key, 2)
            x = x + self._drop(self.cross(self.cross_norm(x), *source), third)
        return self._mlp(x, keys[1])

    def prefill(self, x, state, starts=None, lengths=None, source=None):
        """Returns the outputs and the state after them; see SequenceMixer.prefill.

        `source` is what `cross.read` returned.
        """
        y, state = self.mixer.prefill(self.mixer_norm(x), state, starts, lengths)
        x = x + y
        if self.cross is not None:
            x = x + self.cross.attend(self.cross_norm(x), source)
        return self._mlp(x), state

    def step(self, x, state, source=None):
        """Returns the output for one token a row and the state after it; see SequenceMixer.step."""
        y, state = self.mixer.step(self.mixer_norm(x), state)
        x = x + y
        if self.cross is not None:
            x = x + self.cross.attend(self.cross_norm(x)[:, None], source)[:, 0]
        return self._mlp(x), state

    def _mlp(self, x: Array, key: Array | None = None) -> Array:
        return x if self.mlp is None else x + self._drop(self.mlp(self.mlp_norm(x)), key)

    def _drop(self, x: Array, key: Array | None) -> Array:
        if key is None or not self.dropout:
            return x
        keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
        return jnp.where(keep, x / (1 - self.dropout), 0).astype(x.dtype)


def split_rows(x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Returns `x` with its rows split over all devices of the mesh in force (`jax.set_mesh`).

    It is called once per block: where parameters are split along the width, the compiler would
    otherwise split every product along it too, and gather the activations of the whole batch on
    each device instead of the parameters. Without a mesh, or where it does not divide the rows, `x`
    is returned as it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] % mesh.size:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(mesh.axis_names))


def whole(W: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns `W` replicated over the devices of the mesh in force, for a loop over tokens.

    The compiler might otherwise leave it split and exchange activations at every token.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return W
    return jax.lax.with_sharding_constraint(W, PartitionSpec())
