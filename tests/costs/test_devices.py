"""Targets: what they are called, what they refuse, and, where their compilers are installed, that
they compile.
"""

import importlib.util
import subprocess
import sys

import jax
import pytest

from seqarch.config import Config, MeshConfig, ModelConfig
from seqarch.costs import devices
from seqarch.costs.compiler import CUDA_STUB
from seqarch.costs.devices import place
from seqarch.costs.memory import measure
from seqarch.errors import UserError

CONFIG = Config(length=16, model=ModelConfig("gru", layers=1, dim=8, mlp=8))


@pytest.mark.parametrize(
    "spec, chips", [("local", 1), ("tpu-v5e", 1), ("gpu-h100:8", 8), ("tpu-v5p:2x2x4", 16)]
)
def test_a_target_is_named_with_its_chips(spec, chips):
    assert place(spec).chips == chips


@pytest.mark.parametrize(
    "spec, said",
    [
        ("tpu-v5", "did you mean 'tpu-v5"),
        ("gpu-h10", "did you mean 'gpu-h100'"),
        ("tpu-v5e:4x", "cannot read the chips"),
        ("tpu-v5e:0", "cannot read the chips"),
        ("tpu-v5e:", "cannot read the chips"),
    ],
)
def test_what_is_no_target_is_refused_in_words(spec, said):
    with pytest.raises(UserError, match=said):
        place(spec)


def test_local_devices_share_the_machine_s_memory():
    one, three = (place(spec).memory(jax.devices("cpu")[0]) for spec in ("local", "local:3"))
    assert three == one // 3


def test_a_missing_compiler_says_what_to_install(monkeypatch):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: None)
    for name in ("tpu-v5e", "gpu-h100"):
        with pytest.raises(
            UserError, match=f"{name} needs its compiler.*pip install -r requirements-aot.txt"
        ):
            place(name).devices()


def test_a_mesh_that_does_not_fit_the_chips_is_refused():
    config = Config(length=16, model=CONFIG.model, mesh=MeshConfig(data=2, fsdp=1))
    with pytest.raises(UserError, match="does not fit 1 devices"):
        measure(config, "decode", 1, 16, "local:1")


def test_more_local_devices_than_there_are_are_refused():
    with pytest.raises(UserError, match="this machine has"):
        measure(CONFIG, "decode", 1, 16, "local:4096")


COMPILE = """
import jax, sys
from seqarch.config import Config, ModelConfig
from seqarch.costs.memory import measure
from seqarch.costs.compiler import compiled_bytes
from seqarch.costs.programs import phase_program
from seqarch.costs.devices import place
from seqarch.training.sharding import make_mesh
jax.config.update("jax_platforms", "cpu")
config = Config(length=16, model=ModelConfig("mamba", layers=1, dim=8, mlp=8))
one, four = (measure(config, "train", 4, 32, sys.argv[1] + grid) for grid in ("", ":4"))
assert one.fits and 4 * four.parameters < 1.5 * one.parameters and four.flops == one.flops, four
placement = place(sys.argv[1])
program = phase_program(config, "train", 4, 65536, make_mesh(config.mesh, placement.devices()))
planned = measure(config, "train", 4, 65536, sys.argv[1])
try:
    compiled = compiled_bytes(program.compile())
    assert compiled.definition == "peak_memory_in_bytes"
    assert abs(planned.total / compiled.total - 1) < 0.02, (planned, compiled)
except jax.errors.JaxRuntimeError as error:  # machine code wants NVIDIA's toolkit, a plan does not
    assert "No PTX compilation provider" in str(error), error
if sys.argv[1].startswith("tpu"):
    refused = measure(config, "train", 1, 2**26, sys.argv[1])
    assert not refused.fits and refused.outputs is None, refused
    assert 1e10 < refused.memory < placement.target.memory, refused
    def trained(pattern, remat):  # activations of 2048 tokens would not leave the core's memory
        model = ModelConfig(pattern, layers=2, dim=256, mlp=1024, remat=remat)
        return measure(Config(length=16, model=model), "train", 4, 4096, sys.argv[1]).temporaries

    # The layers of the second are in no loop, where the compiler can undo it.
    for pattern in ("gru", "gru,gru"):
        kept, again = (trained(pattern, remat) for remat in (False, True))
        assert again < 0.65 * kept, (pattern, kept, again)
    half = ModelConfig("gru", layers=2, dim=512, mlp=512, dtype="bfloat16")
    loop = measure(Config(length=16, model=half), "decode", 1, 64, sys.argv[1])
    assert loop.temporaries < loop.parameters / 8, loop  # no copy of the parameters, cast or not
else:  # XLA finds no tiles for a product of this one
    mixer = "attention(heads=4,method=materialised)"
    materialised = Config(model=ModelConfig(mixer, layers=1, dim=160, mlp=8))
    assert measure(materialised, "train", 4, 4096, sys.argv[1]).total > 4 * 4 * 4096**2 * 4
model = ModelConfig("attention(heads=2)", layers=1, dim=256, mlp=8, dtype="bfloat16")
served = Config(length=64, model=model)
for phase in ("prefill", "decode"):
    measured = measure(served, phase, 2, 2**18, sys.argv[1])
    # no copy of a cache, of which keys are half
    assert measured.temporaries < measured.state / 16, (phase, measured)
"""


def test_what_stands_in_for_nvidia_s_assembler_makes_nothing(tmp_path):
    ptxas, made = CUDA_STUB / "bin/ptxas", tmp_path / "made"
    assert (
        "release 13"
        in subprocess.run([ptxas, "--version"], capture_output=True, text=True, check=True).stdout
    )
    subprocess.run([ptxas, "-arch=sm_90", "-o", made, "given.ptx"], check=True)
    assert made.read_bytes() == b""


@pytest.mark.parametrize(
    "target, module", [("tpu-v5e", "libtpu"), ("gpu-h100", "jax_plugins.xla_cuda13")]
)
def test_an_absent_device_is_compiled_for(target, module):
    """In a process of its own, as the compilers bring their own libraries."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if not found:
        pytest.skip(f"{module} is not installed")
    done = subprocess.run([sys.executable, "-c", COMPILE, target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
