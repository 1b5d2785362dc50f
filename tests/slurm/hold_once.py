"""Runs a command, but under Slurm holds it still the first time, until the time limit is near.

    python hold_once.py MARK COMMAND...     MARK: a file that remembers the first time

So a test sees a job run out of time, on a fast machine and on a slow one.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

mark, command = Path(sys.argv[1]), sys.argv[2:]
if "SLURM_JOB_ID" not in os.environ or mark.exists():
    os.execvp(command[0], command)
mark.touch()
child = subprocess.Popen(command)


def stop(number: int, _frame: object) -> None:
    child.send_signal(number)
    child.send_signal(signal.SIGCONT)


signal.signal(signal.SIGTERM, stop)
try:
    child.wait(timeout=float(os.environ.get("HOLD_AFTER", "6")))
except subprocess.TimeoutExpired:
    child.send_signal(signal.SIGSTOP)
code = child.wait()
sys.exit(code if code >= 0 else 128 - code)
