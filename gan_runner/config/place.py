"""Which process of a run this one is, as whoever started it says: torchrun, or SLURM's srun."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gan_runner.config.errors import ConfigError

PORTS = range(20_000, 52_000)  # where the processes of a SLURM job meet: one of these, by the job's number


@dataclass(frozen=True)
class Place:
    """Process `rank` of `count` that train one run; number `local` of those on its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0


ALONE = Place()


def place_in_run(devices: int) -> Place:
    """The place of this process in a run with the key `devices`; process 0 where it starts the others itself.

    Raises ConfigError where somebody else has started another number of them.
    """
    given = place_of(os.environ)
    if given and devices not in (1, given.count):
        raise ConfigError(f"devices={devices}: {given.count} processes have been started for this run; leave it out")
    return given or Place(count=devices)


def place_of(environment: Mapping[str, str]) -> Place | None:
    """The place that the environment gives this process; None where nobody has started several.

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
        place = Place(*(int(environment[name]) for name in names))
    except (KeyError, ValueError):
        return None
    return place if place.count > 1 else None


def meeting_place(environment: Mapping[str, str]) -> tuple[str, int]:
    """The address and the port at which process 0 waits for the others.

    `MASTER_ADDR` and `MASTER_PORT` say it, as torchrun sets them; else it is the first node of the SLURM job.
    """
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "localhost")
    first = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    address = "".join(part or "" for part in first.groups()) if first else nodes
    job = int(environment.get("SLURM_JOB_ID", 0)) + int(environment.get("SLURM_STEP_ID", 0))
    port = environment.get("MASTER_PORT", PORTS[job % len(PORTS)])
    return environment.get("MASTER_ADDR", address), int(port)
