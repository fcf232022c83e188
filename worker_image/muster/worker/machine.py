"""What this machine offers a worker: processors and its name. The one place that reads it.

The command line calls it once and passes the value on.

A container's share of the processors stands in its control group, version 1 or 2; `os.cpu_count` knows
nothing of it.
"""

import math
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a worker runs."""

    cpus: int
    host: str
    unique: str
    """Unlike any other worker's, here or elsewhere."""


def this_machine() -> Machine:
    """Return the machine and process that calls."""
    available = (
        (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None) or os.cpu_count() or 1
    )
    limit = cpu_limit(Path("/"))
    return Machine(
        cpus=available if limit is None else max(1, min(available, math.ceil(limit))),
        host=socket.gethostname(),
        unique=str(uuid.uuid4()),
    )


def cpu_limit(root: Path) -> float | None:
    """Return how many processors the control groups of this process allow, None for no limit.

    `root` is where `proc` and `sys` are found. A group counts with all those above it, as the kernel
    enforces them; where a group's own path is not mounted (a container without a cgroup namespace) the
    mount's root is the container's group. Formats: Linux' cgroup-v2.rst `cpu.max`, sched-bwc.rst
    `cpu.cfs_quota_us`, cgroups(7) `/proc/self/cgroup`.
    """
    limits: list[float] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, place = line.partition(":")
        controllers, _, group = place.partition(":")
        mounts = root / "sys/fs/cgroup"
        if not controllers:
            for mount in (mounts, mounts / "unified"):
                limits += [found for place in _up(mount, group) if (found := _v2(place)) is not None]
        elif "cpu" in controllers.split(","):
            for mount in {mounts / controllers, mounts / "cpu"}:
                limits += [found for place in _up(mount, group) if (found := _v1(place)) is not None]
    return min(limits, default=None)


def _up(mount: Path, group: str) -> list[Path]:
    place = mount / group.strip("/")
    return [place, *(above for above in place.parents if above.is_relative_to(mount))]


def _v2(place: Path) -> float | None:
    quota, _, period = _read(place / "cpu.max").strip().partition(" ")
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _v1(place: Path) -> float | None:
    quota = _read(place / "cpu.cfs_quota_us").strip()
    period = _read(place / "cpu.cfs_period_us").strip()
    # -1 is no limit
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
