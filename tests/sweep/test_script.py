"""What scripts/sweep.py says before it starts anything."""

import pytest

SWEEP = "scripts/sweep.py"


@pytest.fixture
def said(run_here, tmp_path):
    """A function that runs the program with flags, and returns its exit code and its lines."""

    def run(*arguments: str, config: str = "configs/probes.py:parity,gru"):
        workdir = f"--workdir={tmp_path}/runs"
        done = run_here(SWEEP, f"--config={config}", workdir, "--dry_run", *arguments)
        return done.returncode, (done.stderr or done.stdout).splitlines()

    return run


def test_the_runs_and_an_unknown_time_are_shown(said):
    code, lines = said("--grid=seed.model=0..1 optim.lr=1e-3", "--workers=1")
    assert code == 0
    assert lines[0].startswith("2 runs in ") and lines[0].endswith(", varying seed.model (2)")
    assert lines[1:] == [
        "2 to run, 1 at once",
        "  optim.lr=0.001,seed.model=0",
        "  optim.lr=0.001,seed.model=1",
        "time: unknown until the first run ends",
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "the sweep has no runs"),
        (["--grid=lr=1"], "did you mean 'optim.lr'?"),
        (["--grid=optim.lr=1", "--config.optim.lr=2"], "--config.optim.lr is given, and the sweep"),
        (["--grid=steps=1", "--only=quality"], "the evaluator quality measures"),
        (["--grid=steps=1", "--workers=99"], "--workers is 99"),
        (["--grid=steps=1", "--cluster_options=a=1"], "those of --cluster=slurm"),
        (["--grid=steps=1", "--cluster=slurm", "--workers=1"], "give array_parallelism"),
        (["--grid=steps=1", "--cluster=slurm", "--ensemble=2"], "a job of a cluster has one run"),
        (["--grid=steps=1", "--ensemble=0"], "ensemble"),
        (["--grid=steps=1", "--cluster=pbs"], "slurm"),
    ],
)
def test_a_mistake_is_one_line(said, arguments, message, tmp_path):
    code, lines = said(*arguments)
    assert code == 2 and len(lines) == 1 and message in lines[0], lines
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "body, message",
    [
        ("return 3", "get_hyper gives 3; return a list of dicts"),
        ("return h.sweeps()", "get_hyper of the config file fails: AttributeError"),
        ("return []", "the sweep has no runs"),
    ],
)
def test_a_wrong_get_hyper_is_one_line(said, body, message, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"from configs.lm import get_config\n\ndef get_hyper(h):\n    {body}\n")
    code, lines = said(config=str(file))
    assert code == 2 and len(lines) == 1 and message in lines[0], lines


def test_a_get_hyper_takes_the_argument_of_the_config(said, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import probes\n\n"
        "def get_config(argument='2'):\n    return probes.get_config('parity,gru')\n\n"
        "def get_hyper(h, last='2'):\n    return h.sweep('steps', range(1, 1 + int(last)))\n"
    )
    assert said("--only=flops", config=str(file))[1][2:-1] == ["  steps=1", "  steps=2"]
    assert "  steps=3" in said("--only=flops", config=f"{file}:3")[1]


def test_a_comparison_is_no_sweep(said):
    code, lines = said("--grid=steps=1", config="configs/compare.py")
    assert code == 2 and "describes several members" in lines[0]
