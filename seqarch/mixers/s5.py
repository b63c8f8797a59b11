"""S5: one diagonal state space model that all channels share, the same for all tokens.

    h_t = a h_{t-1} + b B u_t,    a = exp(delta Lambda),    b = (a - 1) / Lambda
    y_t = 2 Re(C h_t) + D u_t
    o_t = z_t * sigmoid(W z_t + c),    z_t = gelu(y_t)

h has N complex entries, and each stands for itself and its conjugate, so y is real; the paper
counts both. Lambda starts as the eigenvalues of J diagonal blocks that are each the normal part of
the HiPPO-LegS matrix, B and C as random real matrices in the basis of its eigenvectors, D normal,
and delta log-uniform in [0.001, 0.1], one per entry of h. No real part of Lambda is above -1e-4,
which the paper's code has as an option, for lengths that are not bounded.

Source: Smith et al. 2023, "Simplified state space layers for sequence modeling", section 3, and
its code for the values before training.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqarch import ops
from seqarch.errors import UserError
from seqarch.layers import Linear
from seqarch.mixers.base import FormMixer
from seqarch.mixers.step_size import log_steps
from seqarch.ops.diagonal_ssm import from_parts, parts, zero_order_hold
from seqarch.ops.numerics import project, rows
from seqarch.ops.scan import FORMS
from seqarch.types import Array, Complex, DTypeLike, Float

MOST_BLOCKS = 8  # the default of the paper's code
SLOWEST = -1e-4  # largest real part of Lambda


class S5State(NamedTuple):
    """Real and imaginary parts of the N entries of h."""

    h: Float[Array, "B 2 N"]


class S5(FormMixer):
    """S5. Its state is N complex numbers, in float32 whatever `dtype` is.

    state_dim: complex entries N of the state; None: D / 2, rounded up
    blocks: blocks J of the matrix that Lambda starts from; None: 8, or as many as divide 8 and N
    method: a form of ops.linear_scan; "auto": the best one on the device
    chunk: tokens per chunk of the forms in chunks
    state_dtype: dtype of the state between calls
    """

    forms, state_option = FORMS, "state_dim"
    state_axes = S5State(h=("batch", None, "inner"))

    def __init__(
        self,
        dim: int,
        *,
        state_dim: int | None = None,
        blocks: int | None = None,
        method: str = "auto",
        chunk: int = 64,
        dtype: DTypeLike = jnp.float32,
        state_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        N = -(-dim // 2) if state_dim is None else state_dim
        J = math.gcd(MOST_BLOCKS, N) if blocks is None else blocks
        if N < 1 or J < 1 or N % J:
            raise UserError(
                f"s5: state_dim {N}, blocks {blocks}; blocks must divide state_dim, and both be at "
                "least 1"
            )
        self.dim, self.state_dim, self.dtype, self.state_dtype = dim, N, dtype, state_dtype
        self.method, self.chunk = method, chunk
        Lambda, V = hippo(2 * N // J)
        self.Lambda = nnx.Param(parts(jnp.tile(Lambda, J), 0), axes=(None, "inner"), decay=False)
        self.log_delta = nnx.Param(log_steps(N, rngs), axes=("inner",), decay=False)
        cast = jnp.dtype(dtype)
        random = nnx.initializers.lecun_normal()(rngs.params(), (J, 2 * N // J, 3 * dim))
        B, *C = jnp.split(random, 3, axis=-1)
        B = parts(jnp.einsum("jnd,np->djp", B, V.conj()), 1).reshape(dim, 2 * N)
        self.B = nnx.Param(B, axes=("embed", "inner"), decay=False, cast=cast)
        C = jnp.einsum("jnd,np->jpd", jax.lax.complex(*C), V)
        # Re(C h) is a product of real and imaginary parts.
        C = parts(C.conj(), 0).reshape(2 * N, dim)
        self.C = nnx.Param(C, axes=("inner", "embed"), cast=cast)
        self.D = nnx.Param(jax.random.normal(rngs.params(), (dim,)), axes=(None,), decay=False)
        self.gate = Linear(dim, dim, ("embed", None), rngs=rngs, dtype=dtype, bias=True)

    def init_state(self, batch, max_len):
        return S5State(jnp.zeros((batch, 2, self.state_dim), self.state_dtype))

    def _run(self, u, state, method, **masks):
        a, b = self._affine(u)
        h0 = from_parts(state.h.astype(jnp.float32), 1)
        hs, h = ops.linear_scan(a, b, h0, method=method, chunk=self.chunk, **masks)
        return self._read(hs, u), S5State(parts(h, 1).astype(self.state_dtype))

    def _affine(self, u: Float[Array, "B T D"]) -> tuple[Complex[Array, "B T N"], ...]:
        """Returns a, repeated for each token, and the input of the recurrence."""
        re, im = self.Lambda[...]
        Lambda = jax.lax.complex(jnp.minimum(re, SLOWEST), im)
        log_a, b = zero_order_hold(Lambda, self.log_delta[...])
        Bu = project(u.astype(self.dtype), self.B[...].astype(self.dtype), self.dtype)
        Bu = from_parts(Bu.astype(jnp.float32).reshape(*u.shape[:-1], 2, -1), -2)
        a, b = (jnp.broadcast_to(x, Bu.shape) for x in (jnp.exp(log_a), b))
        return a, b * Bu

    def _read(self, h: Complex[Array, "B T N"], u: Float[Array, "B T D"]):
        h = parts(h, -2).reshape(*h.shape[:-1], -1).astype(self.dtype)
        y = 2 * project(h, self.C[...].astype(self.dtype), jnp.float32)
        z = jax.nn.gelu(y + rows(self.D[...], y) * u.astype(jnp.float32)).astype(self.dtype)
        return z * jax.nn.sigmoid(self.gate(z))


def hippo(size: int) -> tuple[Complex[np.ndarray, "N"], Complex[np.ndarray, "_ N"]]:
    """Returns half of the eigenvalues of the normal part of HiPPO-LegS, and their eigenvectors.

    Those left out are their conjugates.

    Source: Gu et al. 2022, "Efficiently modeling long sequences with structured state spaces",
    theorem 1 and appendix C.1.
    """
    n = np.arange(size)
    root = np.sqrt(n + 0.5)
    # A + root root^T is skew-symmetric but for -1/2 on its diagonal.
    skew = np.outer(root, root) * np.sign(n[None] - n[:, None])
    turn, V = np.linalg.eigh(-1j * skew)
    half = size // 2
    return (-0.5 + 1j * turn[:half]).astype(np.complex64), V[:, :half].astype(np.complex64)
