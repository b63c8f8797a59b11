"""Commands of SLURM for one machine: sbatch, srun, sacct and scontrol, by the name it is called.

Jobs are processes. $FAKE_SLURM is a directory in which each array task has its script and its
process; 1_0.pid is that of the job, as long as it runs.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["FAKE_SLURM"])


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    array = re.search(r"^#SBATCH --array=0-(\d+)%", text, re.MULTILINE)
    (STATE / "requeue").write_text(str("#SBATCH --requeue" in text))
    number = 1 + len(list(STATE.glob("*.sbatch")))
    shutil.copy(script, STATE / f"{number}.sbatch")
    for index in range(int(array[1]) + 1) if array else [None]:
        begin(f"{number}" if index is None else f"{number}_{index}")
    print(f"Submitted batch job {number}")


def begin(job: str, after: str = "true") -> None:
    number, _, index = job.partition("_")
    env = {"SLURM_JOB_ID": number, "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "FAKE_JOB": job}
    if index:
        env |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index}
    (STATE / f"{job}.pid").write_text("0")
    command = f"{after}; bash {STATE}/{number}.sbatch; rm -f {STATE}/{job}.pid"
    log = (STATE / f"{job}.log").open("a")
    output = dict(stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    subprocess.Popen(["bash", "-c", command], env=os.environ | env, **output)


def srun(*arguments: str) -> None:
    command = list(arguments)
    while command[0].startswith("--"):
        command = command[1 if command[0] == "--unbuffered" else 2 :]
    job = os.environ["FAKE_JOB"]
    (STATE / f"{job}.pid").write_text(str(os.getpid()))
    os.execvp(command[0], command)


def sacct(*arguments: str) -> None:
    print("JobID|State|NodeList")
    for log in STATE.glob("*.log"):
        runs = (STATE / f"{log.stem}.pid").exists()
        print(f"{log.stem}|{'RUNNING' if runs else 'COMPLETED'}|here")


def scontrol(action: str, job: str) -> None:
    assert action == "requeue"
    (STATE / f"{job}.requeued").touch()
    pid = (STATE / f"{job}.pid").read_text()
    begin(job, after=f"while kill -0 {pid}; do sleep 0.1; done")


if __name__ == "__main__":
    {each.__name__: each for each in (sbatch, srun, sacct, scontrol)}[Path(sys.argv[0]).name](
        *sys.argv[1:]
    )
