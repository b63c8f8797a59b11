"""Replaces XLA's output with one line when another process of the cluster is gone.

XLA's heartbeats detect that a process is gone. XLA then logs many lines, with a stack trace, and
aborts every other process. This cannot be caught: a Python callback for it raises std::bad_cast in
jaxlib. The stderr of native code therefore goes through a filter, which is this file, run as a
program of its own so that it survives the abort.
"""

import os
import select
import signal
import subprocess
import sys

HEARTBEAT_TIMEOUT_S = 30  # time after which a process without heartbeats counts as gone
HOLD_S = 1.0  # delay of the filter's output; XLA logs the causes milliseconds before the abort
HOLD_BYTES = 1 << 16
MARK = b"Terminating process because the JAX distributed service detected fatal errors"
LINE = (
    b"error: another process of the cluster is gone; start the same command on each again, "
    b"and training goes on from the last checkpoint\n"
)


def filter_native_stderr() -> None:
    """Sends the stderr of native code through the filter; Python's sys.stderr bypasses it."""
    sys.stderr.flush()
    read, write = os.pipe()
    command = [sys.executable, "-I", "-S", __file__]
    subprocess.Popen(command, stdin=read, stdout=subprocess.DEVNULL, start_new_session=True)
    sys.stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(write, 2)
    os.close(read)
    os.close(write)


def forward(source: int, target: int) -> None:
    """Copies one file descriptor to another; writes LINE in place of an abort's output."""
    held = b""
    while True:
        ready, _, _ = select.select([source], [], [], HOLD_S if held else None)
        chunk = os.read(source, HOLD_BYTES) if ready else b""
        held += chunk
        if MARK in held:
            os.write(target, LINE)
            break
        if not chunk or len(held) > HOLD_BYTES:
            os.write(target, held)
            held = b""
        if ready and not chunk:
            return
    while os.read(source, HOLD_BYTES):
        pass


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the filter has to outlive the process
    forward(0, 2)
