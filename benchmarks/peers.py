"""The layers of PyTorch that are timed beside ours, in one process, at the same sizes.

Each is timed apart from the others: PyTorch's threads spin for some 10 ms after a call, and would
take the cores from a program of ours that ran in turn with it.

    gru               torch.nn.GRU, with the projection of the input, as ours
    attention         torch's scaled_dot_product_attention on [B, H, T, K], the layout that it wants
    linear_attention  flash-linear-attention's reference in plain PyTorch, in chunks of 64
    mamba             transformers' MambaMixer without its CUDA kernels, and the same with
                      mambapy's parallel scan

A peer is measured where its packages are installed; requirements-peers.txt lists them all.
"""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.cases import PASSES, Case, Ready, Sizes, make_mixer, normal, pass_cases
from benchmarks.ops import OPS
from seqarch.errors import UserError
from seqarch.provenance import version
from seqarch.types import Array

OURS = "ours"
PACKAGES = {
    "torch": "torch",
    "transformers": "transformers",
    "mambapy": "mambapy",
    "fla": "fla-core",
    "einops": "einops",
}


class Peer(NamedTuple):
    """A layer of PyTorch.

    Attributes:
      family: the name of our op or mixer.
      name: of the layer in tables.
      needs: the modules that it imports.
      make: `make(sizes, B, T)` returns the function, its arguments and its parameters; gradients
        are of both.
    """

    family: str
    name: str
    needs: tuple[str, ...]
    make: Callable[[Sizes, int, int], tuple[Callable, list, list]]


def _tensors(*arrays: Array) -> list:
    import torch

    return [torch.from_numpy(np.array(x)).requires_grad_() for x in arrays]


def _gru(sizes: Sizes, B: int, T: int):
    import torch

    gru = torch.nn.GRU(sizes.dim, sizes.dim, batch_first=True)
    return lambda x: gru(x)[0], _tensors(normal(B, T, sizes.dim)), list(gru.parameters())


def _attention(sizes: Sizes, B: int, T: int):
    import torch

    heads_first = [x.transpose(0, 2, 1, 3) for x in OPS["attention"].args(sizes, B, T)]
    attention = partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True)
    return attention, _tensors(*heads_first), []


def _linear_attention(sizes: Sizes, B: int, T: int):
    """The file of the reference by itself, since importing its package needs Triton."""
    path = Path(importlib.util.find_spec("fla").origin).parent / "ops" / "linear_attn" / "naive.py"
    spec = importlib.util.spec_from_file_location("fla_naive_linear_attention", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    qkv = _tensors(*OPS["linear_attention"].args(sizes, B, T))
    return partial(module.naive_chunk_linear_attn, scale=1.0), qkv, []


def _mamba(sizes: Sizes, B: int, T: int, *, mambapy: bool):
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    widths = dict(
        hidden_size=sizes.dim, intermediate_size=2 * sizes.dim, state_size=sizes.state_dim
    )
    mixer = MambaMixer(MambaConfig(**widths, num_hidden_layers=1, use_mambapy=mambapy), layer_idx=0)
    return mixer, _tensors(normal(B, T, sizes.dim)), list(mixer.parameters())


PEERS = (
    Peer("gru", "torch.nn.GRU", ("torch",), _gru),
    Peer("attention", "torch scaled_dot_product_attention", ("torch",), _attention),
    Peer("linear_attention", "fla's reference", ("torch", "fla", "einops"), _linear_attention),
    Peer(
        "mamba",
        "transformers MambaMixer",
        ("torch", "transformers"),
        partial(_mamba, mambapy=False),
    ),
    Peer(
        "mamba",
        "transformers MambaMixer, mambapy",
        ("torch", "transformers", "mambapy"),
        partial(_mamba, mambapy=True),
    ),
)


def installed() -> list[Peer]:
    """Returns the peers whose modules can be imported."""
    return [peer for peer in PEERS if all(map(importlib.util.find_spec, peer.needs))]


def missing() -> str:
    """Returns a line that says what to install for absent peers; "" where none is absent."""
    absent = [PACKAGES[name] for name in PACKAGES if importlib.util.find_spec(name) is None]
    without = [peer.name for peer in PEERS if peer not in installed()]
    line = (
        f"not installed: {', '.join(absent)}; pip install -r requirements-peers.txt to time "
        f"{'; '.join(without)}"
    )
    return line if absent else ""


def versions() -> dict[str, str]:
    """Returns the versions of the installed packages of PEERS."""
    found = {name: version(name) for name in PACKAGES.values()}
    return {name: number for name, number in found.items() if number}


def peer_cases(sizes: Sizes) -> Iterator[list[Case]]:
    """Yields for each family and shape the list of our cases, then those of each peer.

    Raises:
      UserError: where JAX does not run on the CPU.
    """
    if jax.default_backend() != "cpu":
        raise UserError(
            f"peers run on the CPU and JAX on {jax.default_backend()}; set JAX_PLATFORMS=cpu to "
            "compare there"
        )
    peers = installed()
    for family in dict.fromkeys(peer.family for peer in peers):
        for B, T in sizes.shapes:
            yield _ours(family, sizes, B, T)
            for peer in peers:
                if peer.family == family:
                    yield _theirs(peer, sizes, B, T)


def _theirs(peer: Peer, sizes: Sizes, B: int, T: int) -> list[Case]:
    name, shape = f"{peer.family}: {peer.name}", f"B{B} T{T}"
    return [
        Case("peers", name, shape, pass_, partial(_start, peer, pass_, sizes, B, T))
        for pass_ in PASSES
    ]


def _ours(family: str, sizes: Sizes, B: int, T: int) -> list[Case]:
    name = f"{family}: {OURS}"
    if family in OPS:
        op = OPS[family]
        return pass_cases(
            "peers", name, (B, T), partial(op.call, "auto"), partial(op.args, sizes, B, T)
        )
    args = lambda: (make_mixer(family, sizes), normal(B, T, sizes.dim))
    return pass_cases("peers", name, (B, T), lambda mixer, x: mixer(x), args)


def _start(peer: Peer, pass_: str, sizes: Sizes, B: int, T: int) -> Ready:
    import torch

    function, inputs, parameters = peer.make(sizes, B, T)
    with torch.no_grad():
        cotangent = torch.randn_like(function(*inputs))

    def run(_: Any) -> None:
        if pass_ == "train":
            torch.autograd.grad(function(*inputs), inputs + parameters, cotangent)
        else:
            with torch.no_grad():
                function(*inputs)

    return Ready(run)
