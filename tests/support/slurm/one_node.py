"""A real Slurm of one node on the loopback, with Debian's packages, for as long as a test needs it.

    with OneNode() as slurm:
        subprocess.run(["sbatch", ...], env=slurm.environment)

Packages: slurmctld slurmd slurm-client munge. By hand: `python tests/support/slurm/one_node.py` runs one until Ctrl-C.
It writes into a temporary folder alone, its ports are free ones, and it ends only processes that it started.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
SECONDS_TO_START = 40

# cred_expire: also how long a requeued job waits before it starts again, two minutes by default.
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
MaxArraySize={max_array}
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
MinJobAge=600
KillWait=5
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=debug Nodes=localhost Default=YES MaxTime=60 State=UP
"""


def missing_programs() -> list[str]:
    """The programs of Slurm that are not installed."""
    return [name for name in PROGRAMS if _find(name) is None]


class OneNode:
    """Slurm with one node of `cpus` processors; array indices are below `max_array`."""

    def __init__(self, cpus: int = 2, max_array: int = 1001) -> None:
        # munge refuses folders that others may write to, or that it cannot be reached through
        self.folder = Path(tempfile.mkdtemp(prefix="one-node-slurm-"))
        self.cpus, self.max_array = cpus, max_array
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._output: list[IO[bytes]] = []

    def __enter__(self) -> OneNode:
        self.folder.chmod(0o755)
        for name in ("state", "spool"):
            (self.folder / name).mkdir(mode=0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        self._write_conf()
        try:
            self._start_munge(key)
            self._start("slurmctld", "-D", "-c")
            self._start("slurmd", "-D", "-N", "localhost")
            self._await(lambda: self.ask("sinfo", "-h", "-o", "%T") == "idle", "an idle node")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints; nothing where it fails."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def stop(self) -> None:
        """End all jobs and then the daemons."""
        if "slurmctld" in self._daemons:
            self.ask("scancel", "--user", getpass.getuser())
            deadline = time.monotonic() + 20
            while self.ask("squeue", "-h") and time.monotonic() < deadline:
                time.sleep(0.2)
        for name in ("slurmd", "slurmctld", "munged"):
            if name in self._daemons:
                _end(self._daemons.pop(name))
        for file in self._output:
            file.close()
        shutil.rmtree(self.folder)

    def _write_conf(self) -> None:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            ports = one.getsockname()[1], other.getsockname()[1]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        text = CONF.format(
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            folder=self.folder,
            controller_port=ports[0],
            node_port=ports[1],
            cpus=self.cpus,
            max_array=self.max_array,
            memory=int(memory * 0.8),
        )
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")
        # This Slurm knows no "disabled" yet; v1 is loaded, but never touched with linuxproc and task/none.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n", encoding="utf-8")

    def _start_munge(self, key: Path) -> None:
        names = {
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "log-file": "munged.log",
            "seed-file": "munge.seed",
        }
        files = [f"--{option}={self.folder / name}" for option, name in names.items()]
        self._start("munged", "--foreground", f"--key-file={key}", "--num-threads=2", *files)
        self._await((self.folder / "munge.socket").exists, "munge's socket")

    def _start(self, name: str, *arguments: str) -> None:
        program = _find(name)
        assert program is not None, f"{name} is not installed"
        output = (self.folder / f"{name}.out").open("wb")
        self._output.append(output)
        self._daemons[name] = subprocess.Popen(
            [program, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _await(self, ready: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while not ready():
            dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                said = "\n".join(
                    f"== {path.name}\n{path.read_text(errors='replace')[-1500:]}"
                    for path in sorted(self.folder.glob("*"))
                    if path.suffix in (".log", ".out")
                )
                raise RuntimeError(f"{f'{dead} ended' if dead else f'no {what} in time'}\n{said}")
            time.sleep(0.1)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(timeout=15)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), OneNode() as slurm:
        sys.stdout.write(f"export SLURM_CONF={slurm.environment['SLURM_CONF']}\n")
        sys.stdout.flush()
        while True:
            signal.pause()


if __name__ == "__main__":
    main()
