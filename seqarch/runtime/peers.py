"""Tells in one line that another process of the cluster is gone, in place of what XLA says of it.

XLA's heartbeats find that a process is gone, and then XLA aborts every other one with the lines
that it logs, a stack trace among them. This cannot be caught: a Python callback for it raises
std::bad_cast in jaxlib. What native code writes to stderr therefore passes a filter, which is
this file, run as a program of its own so that it survives the abort.
"""

import os
import select
import signal
import subprocess
import sys

HEARTBEAT_TIMEOUT_S = 30  # after which a silent process counts as gone
HOLD_S = (
    1.0  # for which the filter keeps text back; XLA logs the causes milliseconds before the end
)
HOLD_BYTES = 1 << 16
MARK = b"Terminating process because the JAX distributed service detected fatal errors"
LINE = (
    b"error: another process of the cluster is gone; start the same command on each again, "
    b"and training goes on from the last checkpoint\n"
)


def filter_native_stderr() -> None:
    """Lets what native code writes to stderr pass the filter; Python's sys.stderr bypasses it."""
    sys.stderr.flush()
    read, write = os.pipe()
    command = [sys.executable, "-I", "-S", __file__]
    subprocess.Popen(command, stdin=read, stdout=subprocess.DEVNULL, start_new_session=True)
    sys.stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(write, 2)
    os.close(read)
    os.close(write)


def forward(source: int, target: int) -> None:
    """Copies `source` to `target` until it ends; from an abort by XLA only LINE is written."""
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
        signal.signal(number, signal.SIG_IGN)  # it ends after the process that it serves
    forward(0, 2)
