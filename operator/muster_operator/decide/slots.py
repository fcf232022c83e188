"""How many tasks one worker of a pool runs at once.

`scaling` divides the load by it. What the manifest says counts first, then what the workers themselves
report, then the default of the pool's type.
"""

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING
from typing import Any

from muster_operator.api.names import WORKER_CONTAINER
from muster_operator.api.workerpool import PoolType, WorkerPoolSpec
from muster_operator.desired.quantity import parse_quantity
from muster_operator.model.world import WorkerView

_BY_TYPE: Mapping[PoolType, int] = {
    PoolType.SOLO: 1,
    PoolType.THREADS: 10,
    PoolType.GEVENT: 100,
    PoolType.EVENTLET: 100,
    PoolType.ASYNCIO: 100,
}


def slots_per_worker(spec: WorkerPoolSpec, reports: Sequence[WorkerView]) -> int:
    """Return the slots of one worker, at least 1.

    Where nothing is said, a prefork worker has one for each CPU of its limit, rounded up, and one when it has
    no limit and has not reported yet. Of differing reports the smallest holds, so that the pool is rather too
    large. Where autoscale changes the slots inside a worker they count as grown, here as in reports: it grows
    at once, and a worker that could do more needs no other beside it.
    """
    pool = spec.pool
    if pool.autoscale is not None:
        return pool.autoscale.max
    if pool.concurrency is not None:
        return pool.concurrency
    usual = _BY_TYPE.get(pool.effective_type) if pool.effective_type else None
    if usual is not None:
        return usual
    reported = [report.slots for report in reports if report.slots > 0 and not report.draining]
    if reported:
        return min(reported)
    return _cpu_limit(spec.template) or 1


def _cpu_limit(template: Mapping[str, Any]) -> int:
    """Return the worker's CPU limit rounded up; 0 when the template, which may be anything, names none."""
    containers = _object(template.get("spec")).get("containers")
    for container in containers if isinstance(containers, list) else ():
        if _object(container).get("name") == WORKER_CONTAINER:
            limits = _object(_object(container.get("resources")).get("limits"))
            amount = parse_quantity(limits.get("cpu"))
            return 0 if amount is None else int(amount.to_integral_value(rounding=ROUND_CEILING))
    return 0


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
