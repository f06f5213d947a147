"""Which process of a run this one is, as whoever started it says: torchrun, or SLURM's srun."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gan_runner.config.errors import ConfigError

PORTS = range(20_000, 52_000)  # where the processes of a SLURM job meet: one of these, by the job's number


@dataclass(frozen=True)
class ProcessRank:
    """Process `rank` of `world_size` that train one run; number `local_rank` of those on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0


ALONE = ProcessRank()


def process_in_run(devices: int) -> ProcessRank:
    """Which process this is of a run with the key `devices`; process 0 where it starts the others itself.

    Raises ConfigError where somebody else has started another number of them.
    """
    given = launched_process(os.environ)
    if given and devices not in (1, given.world_size):
        raise ConfigError(
            f"devices={devices}: {given.world_size} processes have been started for this run; leave it out"
        )
    return given or ProcessRank(world_size=devices)


def launched_process(environment: Mapping[str, str]) -> ProcessRank | None:
    """Which process the environment says that this is; None where nobody has started several.

    `RANK`, `WORLD_SIZE` and `LOCAL_RANK` are torchrun's; `SLURM_PROCID`, `SLURM_NTASKS` and `SLURM_LOCALID` those of
    srun. The script of a SLURM job has these too, but is one process: it is no step of the job. So is the shell of
    `srun --pty`, as the terminal is that of one task.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif "SLURM_JOB_ID" in environment and ("SLURM_STEP_ID" not in environment or "SLURM_PTY_PORT" in environment):
        return None
    else:
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    try:
        process = ProcessRank(*(int(environment[name]) for name in names))
    except (KeyError, ValueError):
        return None
    return process if process.world_size > 1 else None


def rendezvous(environment: Mapping[str, str]) -> tuple[str, int]:
    """The address and the port at which process 0 waits for the others.

    `MASTER_ADDR` and `MASTER_PORT` say it, as torchrun sets them; else it is the first node of the SLURM job.
    """
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "localhost")
    first = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    address = "".join(part or "" for part in first.groups()) if first else nodes
    job = int(environment.get("SLURM_JOB_ID", 0)) + int(environment.get("SLURM_STEP_ID", 0))
    port = environment.get("MASTER_PORT", PORTS[job % len(PORTS)])
    return environment.get("MASTER_ADDR", address), int(port)
