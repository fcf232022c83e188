"""Beat's metrics, read from its tally when somebody asks. Served by `muster.health`."""

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from muster.beat.loop import BeatLoop
from muster.beat.tally import LAG_BUCKETS


class BeatCollector(Collector):
    """Turns one beat's counts into metrics."""

    def __init__(self, loop: BeatLoop) -> None:
        self._loop = loop

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        tally = self._loop.tally
        for name, text, counts in (
            ("ticks", "Tasks sent for due times", tally.ticks),
            ("missed_ticks", "Due times left out for good", tally.missed),
        ):
            counter = CounterMetricFamily(f"muster_beat_{name}", text, labels=["queue", "task"])
            for (queue, task), number in dict(counts).items():
                counter.add_metric([queue, task], number)
            yield counter
        total, buckets = 0, []
        for bound, number in zip([*map(str, LAG_BUCKETS), "+Inf"], list(tally.lag_counts), strict=True):
            total += number
            buckets.append((bound, float(total)))
        lag = HistogramMetricFamily(
            "muster_beat_lag_seconds", "From the due time until the broker had the task"
        )
        lag.add_metric([], buckets=buckets, sum_value=tally.lag_sum_seconds)
        yield lag
        for name, text, value in (
            ("leader", "1 while this beat ticks, 0 while it stands by", int(tally.leads)),
            ("connected", "1 while the broker can be reached", int(self._loop.connected)),
            ("schedules", "Schedules of the scope, as the leader knows them", tally.schedules),
            ("refused_schedules", "Schedules that cannot be ticked as they stand", tally.refused),
        ):
            yield GaugeMetricFamily(f"muster_beat_{name}", text, value=value)
