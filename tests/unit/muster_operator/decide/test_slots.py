"""How many tasks one worker runs at once."""

import pytest

from muster_operator.decide.slots import slots_per_worker
from worlds import pool_of, worker


def cpu(limit):
    return {"spec": {"containers": [{"name": "worker", "resources": {"limits": {"cpu": limit}}}]}}


@pytest.mark.parametrize(
    ("spec", "slots"),
    [
        ({}, 1),
        ({"pool": {"concurrency": 8}}, 8),
        ({"pool": {"autoscale": {"min": 2, "max": 6}}}, 6),
        ({"pool": {"autoscale": {"min": 2, "max": 6}, "concurrency": 4}}, 6),
        ({"pool": {"type": "solo"}}, 1),
        ({"pool": {"type": "threads"}}, 10),
        ({"pool": {"type": "gevent"}}, 100),
        ({"pool": {"customPool": "a.b:C"}}, 1),
        ({"template": cpu("2500m")}, 3),
        ({"template": cpu("4")}, 4),
        ({"template": cpu("0.5")}, 1),
        ({"template": {"spec": {"containers": [{"name": "sidecar"}]}}}, 1),
        ({"template": cpu("4"), "pool": {"concurrency": 2}}, 2),
    ],
    ids=str,
)
def test_slots_follow_from_the_manifest(spec, slots):
    """What is written counts; else the type's default; else the CPU limit rounded up; else one."""
    assert slots_per_worker(pool_of(**spec).spec, ()) == slots


def test_what_workers_report_counts_where_the_manifest_is_silent():
    """Of differing reports the smallest holds, and a draining worker's has no weight."""
    reports = [worker(slots=4), worker(slots=3), worker(slots=1, draining=True)]
    assert slots_per_worker(pool_of().spec, reports) == 3
    assert slots_per_worker(pool_of(pool={"concurrency": 8}).spec, reports) == 8
