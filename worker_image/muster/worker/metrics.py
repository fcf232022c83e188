"""The worker's metrics: read from the loop's plain counts when somebody asks, so that a task costs nothing.

Served by `muster.health`. Labels are pool, queue and task, never a pod or a task id.
"""

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from muster.worker.loop import WorkerLoop
from muster.worker.tally import BUCKETS

_COUNTERS = {
    "succeeded": "Runs that ended with a result",
    "failed": "Runs that raised",
    "retried": "Runs that asked for another one",
    "rejected": "Runs that refused their message",
    "expired": "Messages that were too old or revoked, and did not run",
    "lost": "Runs whose process was lost",
    "rate_limited": "Messages that had to wait for their task's rate limit",
}


class WorkerCollector(Collector):
    """Turns one worker's counts into metrics."""

    def __init__(self, loop: WorkerLoop, pool_name: str) -> None:
        self._loop = loop
        self._pool = pool_name

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        tasks = dict(self._loop.tally.tasks)
        labels = ["pool", "queue", "task"]
        for name, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"muster_task_{name}", text, labels=labels)
            for (queue, task), counts in tasks.items():
                counter.add_metric([self._pool, queue, task], getattr(counts, name))
            yield counter
        extra = CounterMetricFamily(
            "muster_task_extra_runs", "Starts beyond the first, by what made them", labels=[*labels, "cause"]
        )
        runtime = HistogramMetricFamily("muster_task_runtime_seconds", "Time in the task", labels=labels)
        for (queue, task), counts in tasks.items():
            for cause, number in dict(counts.extra).items():
                extra.add_metric([self._pool, queue, task, cause], number)
            total, buckets = 0, []
            for bound, number in zip([*map(str, BUCKETS), "+Inf"], list(counts.buckets), strict=True):
                total += number
                buckets.append((bound, float(total)))
            runtime.add_metric([self._pool, queue, task], buckets=buckets, sum_value=counts.runtime)
        yield extra
        yield runtime
        dead = CounterMetricFamily(
            "muster_dead_letters", "Messages buried", labels=["pool", "queue", "reason"]
        )
        for (queue, reason), number in dict(self._loop.tally.dead).items():
            dead.add_metric([self._pool, queue, reason], number)
        yield dead
        for name, text, value in (
            ("slots", "How many tasks can run at once, with autoscale at the most", self._loop.slots),
            ("current_slots", "How many slots there are now", self._loop.current_slots),
            ("busy_slots", "How many tasks run", self._loop.busy),
            ("connected", "1 while the broker can be reached", int(self._loop.connected)),
            ("draining", "1 while the worker drains", int(self._loop.draining)),
        ):
            gauge = GaugeMetricFamily(f"muster_worker_{name}", text, labels=["pool"])
            gauge.add_metric([self._pool], value)
            yield gauge
