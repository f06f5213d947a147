"""How much memory a dataset may have."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

SHARE = 0.5  # of a device's free memory that a dataset may take: the networks and their activations need the rest
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process could still have there; None = unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return available_memory() if device.type == "cpu" else None


def available_memory() -> int | None:
    """Bytes of host memory to be had without swapping, within the limits of a container or a job; None = unknown."""
    return min([*system_memory(), *cgroup_memory()], default=None)


def system_memory() -> Iterator[int]:
    """What the machine has available; where it does not say, all that it has."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        yield next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # sysconf's own SC_AVPHYS_PAGES leaves out the cache, which is free for the taking
        try:
            yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return


def cgroup_memory() -> Iterator[int]:
    """What Linux leaves of each limit on the control groups that this process is in, of version 1 and 2.

    Pages of files that were not read of late count as free, as they do in MemAvailable: the kernel drops them first.
    """
    try:
        groups = [line.split(":", 2) for line in OWN_CGROUPS.read_text().splitlines()]
    except OSError:
        return
    for number, controllers, path in groups:
        if number == "0":
            root, names = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        leaf = root / path.lstrip("/")
        for folder in (leaf, *leaf.parents):
            if not folder.is_relative_to(root):
                break
            yield from left_in(folder, *names)


def left_in(folder: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    """Bytes that one control group still has, if it says so and has a limit."""
    try:
        allowed, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return
    if allowed != "max":
        yield max(0, int(allowed) - used + int(statistics.get(reclaimable, 0)))


def size(count: float) -> str:
    """Bytes, for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
