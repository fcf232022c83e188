"""How long a task runs: a moving average over what workers report of the runs they ended.

`plan` folds the reports of each pass in; `load` uses the figure where a target latency is set. Workers report
totals since their start, so a lost or repeated report does no harm.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from muster_operator.model.history import RuntimeEstimate
from muster_operator.model.world import WorkerView

HALF_LIFE = timedelta(seconds=60)
"""After this time the runs before it weigh half."""


def fold(estimate: RuntimeEstimate, workers: Mapping[str, WorkerView], now: datetime) -> RuntimeEstimate:
    """Return the estimate with the runs that `workers` (id → latest report) ended since it was made.

    A worker whose totals went down has been restarted: all that it reports is new. Workers that are gone are
    forgotten.
    """
    totals = {name: (worker.runs, worker.runtime_seconds) for name, worker in workers.items()}
    runs, seconds = 0, 0.0
    for name, (runs_now, seconds_now) in totals.items():
        runs_then, seconds_then = estimate.totals.get(name, (0, 0.0))
        if runs_now < runs_then:
            runs_then, seconds_then = 0, 0.0
        runs += runs_now - runs_then
        seconds += seconds_now - seconds_then
    if runs == 0:
        return RuntimeEstimate(seconds=estimate.seconds, at=estimate.at, totals=totals)
    mean = max(0.0, seconds / runs)
    if estimate.seconds is None or estimate.at is None:
        return RuntimeEstimate(seconds=mean, at=now, totals=totals)
    kept = 0.5 ** (max(now - estimate.at, timedelta(0)) / HALF_LIFE)
    return RuntimeEstimate(seconds=kept * estimate.seconds + (1 - kept) * mean, at=now, totals=totals)
