"""A real SLURM of one node on loopback, for tests: Debian's daemons, as root, without accounting."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

# `cred_expire` is also how long SLURM holds a job that is queued again: two minutes if nothing else is said.
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
CONFIG = """
ClusterName=igb
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={port}
SlurmdPort={port_of_node}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=0
ReturnToService=2
SchedulerParameters=sched_interval=2,batch_sched_delay=1
KillWait=5
MinJobAge=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={megabytes} State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""


class Cluster:
    """A cluster whose files are in `folder`; `environment` has what its commands need."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """Install what is missing, start the daemons, and wait for the node."""
        if not all(map(shutil.which, ("slurmctld", "slurmd", "sbatch", "munged"))):
            for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
                environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
                subprocess.run(["apt-get", "--quiet", *command], check=True, env=environment)
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        values = {
            "folder": self.folder,
            "host": socket.gethostname().partition(".")[0],
            "port": free_port(),
            "port_of_node": free_port(),
            "cores": os.cpu_count(),
            "megabytes": memory * 8 // 10,
        }
        (self.folder / "slurm.conf").write_text(CONFIG.format(**values))
        if subprocess.run(["munge", "-n"], capture_output=True).returncode != 0:
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge", "munge")
            subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon], check=True, env=self.environment)
        deadline = time.monotonic() + 60
        while self.run("sinfo", "--noheader", "--format", "%T").strip() != "idle":
            if time.monotonic() > deadline:
                raise RuntimeError(f"the node did not come up; see {self.folder}/slurmd.log")
            time.sleep(0.5)

    def run(self, *command: str) -> str:
        """What one of SLURM's commands prints."""
        return subprocess.run(command, capture_output=True, text=True, env=self.environment).stdout

    def stop(self) -> None:
        """Cancel all jobs and end the daemons that `start` began."""
        self.run("scancel", "--user", "root")
        time.sleep(2)
        for daemon in ("slurmd", "slurmctld"):
            if (file := self.folder / f"{daemon}.pid").exists():
                os.kill(int(file.read_text()), 15)


def free_port() -> int:
    """A port that nothing listens to."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
