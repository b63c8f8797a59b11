"""The installation, on stand-ins for interpreters and machines: what it chooses, repairs and
refuses; what runs on.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

# An interpreter that writes down what it is asked for. `-m venv --clear DIR` puts a copy of it into
# DIR.
PYTHON = """#!/bin/bash
echo "$*" >>"$LOG"
case "$*" in
  "-m venv --clear "*) rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  *"pip install"*) echo "Collecting everything"; exit "${PIP_EXIT:-0}" ;;
  *default_backend*) echo "${BACKEND:-cpu}" ;;
esac
"""


@pytest.fixture
def machine(tmp_path):
    """A checkout, an empty file system and a path with few commands; calling it runs bash there
    after env.sh.
    """
    (tmp_path / "bin").mkdir()
    (tmp_path / "requirements.txt").write_text("jax\n")
    (tmp_path / "requirements-cuda.txt").write_text("-r requirements.txt\njax[cuda13]\n")
    for name in ("bash", "cat", "cp", "mkdir", "rm"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))

    def run(command, **environment):
        env = {
            "PATH": str(tmp_path / "bin"),
            "LOG": str(tmp_path / "log"),
            "ROOT": str(tmp_path),
            **environment,
        }
        script = f"set -euo pipefail; source {SCRIPTS / 'env.sh'}; {command}"
        return subprocess.run(
            [str(tmp_path / "bin/bash"), "-c", script], env=env, capture_output=True, text=True
        )

    run.root = tmp_path
    return run


def _command(machine, name, text="#!/bin/bash\nexit 0\n"):
    path = machine.root / "bin" / name
    path.write_text(text)
    path.chmod(0o755)


def _device(machine, vendor, device):
    path = machine.root / "sys/bus/pci/devices/0000:00:04.0"
    path.mkdir(parents=True)
    (path / "vendor").write_text(vendor + "\n")
    (path / "device").write_text(device + "\n")


def _asked(machine, what):
    log = machine.root / "log"
    return sum(what in line for line in log.read_text().splitlines()) if log.exists() else 0


def test_plain_machine_is_cpu(machine):
    assert machine('accelerator "$ROOT"').stdout == "cpu\n"


def test_nvidia_machine_is_cuda(machine):
    _command(machine, "nvidia-smi", "#!/bin/bash\nexit 9\n")
    assert machine('accelerator "$ROOT"').stdout == "cpu\n"
    _command(machine, "nvidia-smi")
    assert machine('accelerator "$ROOT"').stdout == "cuda\n"


@pytest.mark.parametrize(
    "vendor, device, kind",
    [("0x1ae0", "0x0063", "tpu"), ("0x1ae0", "0x0042", "cpu"), ("0x8086", "0x0063", "cpu")],
)
def test_tpu_is_told_from_other_devices(machine, vendor, device, kind):
    _device(machine, vendor, device)
    assert machine('accelerator "$ROOT"').stdout == kind + "\n"


def test_commands_that_fail_are_passed_over(machine):
    _command(machine, "python3", "#!/bin/bash\nexit 127\n")
    _command(machine, "python3.11")
    assert machine("find_python").stdout.strip() == str(machine.root / "bin/python3.11")


def test_without_python_one_line_says_what_to_install(machine):
    result = machine('prepare "$ROOT"')
    assert result.returncode == 1
    assert "no Python >= 3.11" in result.stderr and len(result.stderr.splitlines()) == 1


def test_installs_once_and_again_when_requirements_change(machine):
    _command(machine, "python3", PYTHON)
    for requirements, installations in (("jax\n", 1), ("jax\n", 1), ("jax\nflax\n", 2)):
        (machine.root / "requirements.txt").write_text(requirements)
        result = machine('prepare "$ROOT"; echo "$PYTHON"')
        assert result.stdout.strip() == str(machine.root / ".venv/bin/python"), result.stderr
        assert _asked(machine, "pip install") == installations
    assert _asked(machine, "-m venv") == 1


def test_failed_installation_is_said_and_repaired(machine):
    _command(machine, "python3", PYTHON)
    result = machine('prepare "$ROOT"', PIP_EXIT="1")
    assert result.returncode == 1 and "installation failed" in result.stderr
    assert machine('prepare "$ROOT"').returncode == 0
    assert _asked(machine, "-m venv") == 2 and _asked(machine, "pip install") == 2


def test_active_environment_is_taken_as_it_is(machine):
    _command(machine, "python3", PYTHON)
    result = machine('prepare "$ROOT"; echo "$PYTHON"', SEQARCH_ENV="active")
    assert result.stdout.strip() == str(machine.root / "bin/python3")
    assert not _asked(machine, "pip") and not (machine.root / ".venv").exists()
    assert "expected 'active'" in machine('prepare "$ROOT"', SEQARCH_ENV="actve").stderr


@pytest.mark.parametrize(
    "backend, platforms, code", [("cpu", "", 1), ("gpu", "", 0), ("cpu", "cpu", 0)]
)
def test_never_silently_on_cpu_beside_an_accelerator(machine, backend, platforms, code):
    _command(machine, "python3", PYTHON)
    _command(machine, "nvidia-smi")
    result = machine('prepare "$ROOT"', BACKEND=backend, JAX_PLATFORMS=platforms)
    assert result.returncode == code, result.stderr
    assert ("but JAX uses 'cpu'" in result.stderr) == (code == 1)
    assert _asked(machine, "requirements-cuda.txt") == 1


@pytest.fixture
def checkout(machine):
    """The machine with this repository's scripts in it; calling it runs one and returns the last
    command they gave.
    """
    for path in ("pytest.ini", "scripts"):
        (machine.root / path).symlink_to(SCRIPTS.parent / path)
    _command(machine, "python3", PYTHON)
    _command(machine, "dirname", f'#!/bin/bash\nexec {shutil.which("dirname")} "$@"\n')

    def run(script, arguments):
        result = machine(f'cd /; bash "{machine.root}/scripts/{script}" {arguments}')
        assert result.returncode == 0, result.stderr
        return (machine.root / "log").read_text().splitlines()[-1]

    return run


@pytest.mark.parametrize("script", ["test.sh", "compare.sh"])
def test_scripts_pass_arguments_on_from_any_directory(checkout, script):
    assert checkout(script, '--one "two words"').endswith("--one two words")


@pytest.mark.parametrize(
    "arguments, configs",
    [
        ("", 1),
        ("--config.steps=3 --workdir=a", 1),
        ("--config=b.py:full --config.steps=3", 0),
        ("--config b.py", 0),
    ],
)
def test_comparison_has_its_default_config_unless_another_is_given(checkout, arguments, configs):
    command = checkout("compare.sh", arguments)
    assert command.count("configs/compare.py") == configs
    assert command.endswith(arguments)


@pytest.mark.parametrize(
    ("codes", "ends", "starts"),
    [((0,), 0, 1), ((2,), 2, 1), ((130,), 130, 1), ((143, 0), 0, 2), ((1, 137, 7), 7, 3)],
)
def test_keep_running_starts_again_after_crashes_and_preemption_only(tmp_path, codes, ends, starts):
    count = tmp_path / "count"
    command = (
        f"echo >> {count}; codes=({' '.join(map(str, codes))}); exit "
        f"${{codes[$(wc -l < {count}) - 1]}}"
    )
    env = os.environ | {"KEEP_RUNNING_LIMIT": "3", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    (tmp_path / "sleep").write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/slept\n")
    (tmp_path / "sleep").chmod(0o755)
    script = ["bash", str(SCRIPTS / "keep_running.sh"), "bash", "-c", command]
    done = subprocess.run(script, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, len(count.read_text().splitlines())) == (ends, starts), done.stderr
    assert ("giving up" in done.stderr) == (ends == 7)
    if starts > 1:
        assert (tmp_path / "slept").read_text().split() == ["1", "2"][: starts - 1]


def test_keep_running_passes_sigterm_on_and_does_not_start_again(tmp_path):
    program = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); "
    program += "print('up', flush=True); time.sleep(60)"
    script = ["bash", str(SCRIPTS / "keep_running.sh"), sys.executable, "-S", "-c", program]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "up\n"
        process.terminate()
        assert process.wait(120) == 143


FAULTS = """
import resource, numpy
from seqarch.runtime.process import keep_memory
keep_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    before = faults()
    numpy.full(1 << 24, 1.0)
    print(faults() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_what_was_freed_is_allocated_again_without_the_systems_help():
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    first, second = map(int, done.stdout.split())
    assert second < first / 10
