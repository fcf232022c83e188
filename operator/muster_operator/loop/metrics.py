"""The operator's metrics, read from what it knows when somebody asks. Labels: pool, queue, task."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from muster_operator.decide.conditions.workerpool import taking_tasks
from muster_operator.decide.load import fresh_reports
from muster_operator.model.readings import Known
from muster_operator.model.world import Snapshot
from muster_operator.ports import BrokerView

from .keys import Key
from .store import Store


@dataclass(frozen=True, kw_only=True)
class PoolFigures:
    """What a pool's latest snapshot says of its workers; statuses tell the same rounded and later."""

    ready: int
    busy: int
    slots: int


def pool_figures(seen: Snapshot) -> PoolFigures:
    """Return the figures; a worker that has not been heard of lately adds nothing to `busy` and `slots`."""
    reports = fresh_reports(seen.pods, seen.now)
    return PoolFigures(
        ready=taking_tasks(seen.pods),
        busy=sum(each.busy for each in reports),
        slots=sum(each.slots for each in reports if not each.draining),
    )


class OperatorCollector(Collector):
    """Turns statuses and readings into metrics."""

    def __init__(
        self,
        store: Store,
        *,
        figures: Mapping[Key, PoolFigures],
        views: Callable[[], Mapping[str, BrokerView]],
        requests: Counter[str],
        decisions: Counter[tuple[str, str, str]],
        passes: Counter[tuple[str, str]],
        leads: Callable[[], bool],
        last_event_at: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._figures = figures
        self._views = views
        self._requests = requests
        self._decisions = decisions
        self._passes = passes
        self._leads = leads
        self._last_event_at = last_event_at

    def collect(self) -> Iterator[Metric]:
        """Yield every metric family."""
        yield from self._pools()
        yield from self._queues()
        requests = CounterMetricFamily("muster_api_requests", "Requests to the API server", labels=["verb"])
        for verb, count in dict(self._requests).items():
            requests.add_metric([verb], count)
        yield requests
        decisions = CounterMetricFamily(
            "muster_scaling_decisions", "Changes of size decided", labels=["pool", "direction", "reason"]
        )
        for labels, count in dict(self._decisions).items():
            decisions.add_metric(list(labels), count)
        yield decisions
        passes = CounterMetricFamily("muster_reconciles", "Passes over objects", labels=["kind", "outcome"])
        for labels2, count in dict(self._passes).items():
            passes.add_metric(list(labels2), count)
        yield passes
        leader = GaugeMetricFamily("muster_operator_leader", "1 while this operator leads")
        leader.add_metric([], int(self._leads()))
        yield leader
        watched = GaugeMetricFamily("muster_watch_last_event_timestamp_seconds", "When a watch last spoke")
        watched.add_metric([], self._last_event_at().timestamp())
        yield watched

    def _pools(self) -> Iterator[Metric]:
        desired = GaugeMetricFamily("muster_pool_desired_replicas", "Workers decided", labels=["pool"])
        for body in self._store.of("WorkerPool"):
            value = (body.get("status") or {}).get("desired")
            if value is not None:
                desired.add_metric([_full_name(body)], value)
        yield desired
        for name, text, field in (
            ("ready_replicas", "Workers that take tasks", "ready"),
            ("busy_slots", "Tasks that run", "busy"),
            ("slots", "Tasks that can run at once", "slots"),
        ):
            gauge = GaugeMetricFamily(f"muster_pool_{name}", text, labels=["pool"])
            for key, figures in dict(self._figures).items():
                gauge.add_metric([f"{key.namespace}/{key.name}"], getattr(figures, field))
            yield gauge

    def _queues(self) -> Iterator[Metric]:
        gauges = {
            "ready": GaugeMetricFamily(
                "muster_queue_depth", "Messages that wait", labels=["broker", "queue"]
            ),
            "claimed": GaugeMetricFamily(
                "muster_queue_claimed", "Messages taken and not started", labels=["broker", "queue"]
            ),
            "running": GaugeMetricFamily(
                "muster_queue_running", "Messages that are being run", labels=["broker", "queue"]
            ),
            "waiting": GaugeMetricFamily(
                "muster_queue_waiting", "Messages that wait for their time", labels=["broker", "queue"]
            ),
            "dead": GaugeMetricFamily("muster_queue_dead", "Dead letters", labels=["broker", "queue"]),
            "oldest_age_seconds": GaugeMetricFamily(
                "muster_queue_oldest_message_age_seconds",
                "How long the oldest waiting message waits, where that can be told",
                labels=["broker", "queue"],
            ),
        }
        in_flight = GaugeMetricFamily(
            "muster_queue_in_flight", "Messages that workers hold", labels=["broker", "queue"]
        )
        extra = CounterMetricFamily(
            "muster_task_extra_runs",
            "Starts beyond the first, as the broker has counted them",
            labels=["broker", "queue", "task", "cause"],
        )
        reachable = GaugeMetricFamily("muster_broker_reachable", "1 while it answers", labels=["broker"])
        for broker, view in self._views().items():
            reachable.add_metric([broker], int(isinstance(view.facts, Known)))
            for queue, reading in view.queues.items():
                if isinstance(reading, Known):
                    held = reading.value.claimed + reading.value.running
                    in_flight.add_metric([broker, queue], held)
                    for field, gauge in gauges.items():
                        if (value := getattr(reading.value, field)) is not None:
                            gauge.add_metric([broker, queue], value)
            for (queue, task, cause), count in view.extra_runs.items():
                extra.add_metric([broker, queue, task, cause], count)
        yield in_flight
        yield from gauges.values()
        yield extra
        yield reachable


def _full_name(body: Mapping[str, Any]) -> str:
    return f"{body['metadata']['namespace']}/{body['metadata']['name']}"
