"""Runs a training, but under Slurm holds it still the first time, once it has saved a state, until the time limit.

    python hold_once.py MARK FOLDER COMMAND...

MARK: a file that remembers the first time. FOLDER: where the training's saved states (`.NAME.h5.training`) appear.
So a test sees a job run out of time in the midst of its work, on a fast machine and on a slow one.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

mark, folder, command = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
if "SLURM_JOB_ID" not in os.environ or mark.exists():
    os.execvp(command[0], command)
mark.touch()
child = subprocess.Popen(command)


def stop(number: int, _frame: object) -> None:
    child.send_signal(number)
    child.send_signal(signal.SIGCONT)


signal.signal(signal.SIGTERM, stop)
while child.poll() is None and not any(folder.glob(".*.training")):
    time.sleep(0.002)
child.send_signal(signal.SIGSTOP)
code = child.wait()
sys.exit(code if code >= 0 else 128 - code)
