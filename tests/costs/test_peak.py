"""The compiler's plan of a train step beside what a process really takes; the step is compiled
before it is measured.
"""

import json
import subprocess
import sys

import jax
import pytest

from seqarch.config import Config, ModelConfig
from seqarch.costs.memory import measure
from seqarch.costs.peak import Actual, peak
from seqarch.errors import UserError

OVERHEAD = 13 << 20  # bytes that a process takes beside its arrays, as fitted in docs/memory.md
RUN = """
import json, sys, jax
jax.config.update("jax_num_cpu_devices", 2)
from seqarch.config import Config, ModelConfig
from seqarch.costs.peak import peak
config = Config(model=ModelConfig(sys.argv[1], layers=2, dim=128, mlp=256))
rows, target = (2, "local:2") if sys.argv[3:] else (1, "local")
print(json.dumps(peak(config, "train", rows, int(sys.argv[2]), target)))
"""


@pytest.mark.parametrize(
    "mixer, length",
    [
        ("gru", 9216),
        ("linear_attention", 8448),
        ("mamba", 5632),
        ("attention(window=128)", 9728),
    ],
)
def test_planned_bytes_are_what_a_fresh_process_takes(mixer, length):
    done = subprocess.run(
        [sys.executable, "-c", RUN, mixer, str(length)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    planned, actual = json.loads(done.stdout)
    assert planned >= 0.25e9
    assert planned + OVERHEAD == pytest.approx(actual, rel=0.15)


def test_the_plan_of_two_devices_is_that_of_the_process_which_they_are():
    done = subprocess.run(
        [sys.executable, "-c", RUN, "gru", "8192", "two"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    planned, actual = json.loads(done.stdout)
    assert planned + OVERHEAD == pytest.approx(actual, rel=0.2)


def test_a_target_that_is_absent_runs_nothing():
    with pytest.raises(UserError, match="is not here"):
        peak(Config(model=ModelConfig("gru")), "train", 1, 16, "tpu-v5e")


def test_an_allocator_that_tells_its_peak_is_believed(monkeypatch):
    config = Config(model=ModelConfig("gru", layers=1, dim=8, mlp=8))
    monkeypatch.setattr(
        type(jax.devices()[0]),
        "memory_stats",
        lambda device: {"peak_bytes_in_use": 123, "bytes_limit": 2**30},
    )
    planned = measure(config, "train", 1, 16, "local").total
    assert peak(config, "train", 1, 16, "local") == Actual(planned, 123)
