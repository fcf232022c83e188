"""The processors that a container may use, read from control groups as Linux lays them out."""

import math
import os
from pathlib import Path

import pytest

from muster.worker.machine import cpu_limit, this_machine


def lay_out(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/cpu,cpuacct"
DOCKER = "docker/4e1f"


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        # a container with a cgroup namespace of its own
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "max 100000\n"}, None),
        # a service of systemd: the slice above it bounds it too
        (
            {
                "proc/self/cgroup": "0::/system.slice/worker.service\n",
                f"{V2}/system.slice/worker.service/cpu.max": "400000 100000\n",
                f"{V2}/system.slice/cpu.max": "200000 100000\n",
            },
            2.0,
        ),
        # version 1 in Docker without a cgroup namespace: the path is the host's, the mount the container's
        (
            {
                "proc/self/cgroup": f"12:memory:/{DOCKER}\n4:cpu,cpuacct:/{DOCKER}\n",
                f"{V1}/cpu.cfs_quota_us": "250000\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        # hybrid: version 2 beside version 1
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/\n0::/\n",
                f"{V1}/cpu.cfs_quota_us": "300000\n",
                f"{V1}/cpu.cfs_period_us": "100000\n",
                f"{V2}/unified/cpu.max": "max 100000\n",
            },
            3.0,
        ),
        ({"proc/self/cgroup": "0::/\n", f"{V2}/cpu.max": "nonsense"}, None),
        ({"proc/self/cgroup": "nonsense\n"}, None),
    ],
)
def test_the_limit_of_the_control_group(tmp_path, files, limit):
    """Version 1, version 2 and both; the tightest of a group and those above it; None for no limit."""
    assert cpu_limit(lay_out(tmp_path, files)) == limit


def test_this_machine_has_a_processor_and_a_name():
    """Real values: within the control group's limit if there is one, and a name of its own each time."""
    first, second = this_machine(), this_machine()
    limit = cpu_limit(Path("/"))
    assert 1 <= first.cpus <= (os.cpu_count() if limit is None else math.ceil(limit))
    assert first.host
    assert first.unique != second.unique
