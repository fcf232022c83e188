"""One broker, read again and again from a thread of its own, and the mailboxes of its workers.

`dev.session` keeps one for each Secret that names a broker and takes the latest readings on every pass, so
that a broker that does not answer holds up nothing but itself.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

import msgspec

from muster.errors import BrokerRefused, BrokerUnavailable
from muster.transports.base import Observer, QueueDepth
from muster.transports.connect import connect_observer, connect_schedules
from muster.transports.schedules.base import ScheduleStore
from muster.wire.control import Control
from muster.wire.control import encode as encode_control
from muster.wire.report import WorkerReport
from muster.wire.report import decode as decode_report
from muster_operator.api.conditions import Reason
from muster_operator.model.actions import Action, PutSchedule, RemoveSchedule, SendDrain
from muster_operator.model.readings import Known, Reading, Unknown
from muster_operator.model.world import BrokerFacts, QueueReading, WorkerView
from muster_operator.ports import BrokerView, ScopeView

EVERY_SECONDS: Final = 0.25
START_SECONDS: Final = 2.0
"""How long a worker of this computer needs to start: an ETA within it counts as load."""
REPORTS_SECONDS: Final = 60.0

_TYPES: Final = {"sqlite": "SQLite"}


class Broker:
    """A broker and what was read of it last, in `view`. Raises ConfigurationError for a URL without use."""

    def __init__(
        self,
        url: str,
        *,
        queues: Mapping[str, str],
        pools: Sequence[str],
        scope: str,
        clock: Callable[[], datetime],
    ) -> None:
        """`queues`: name → place of its dead letters. `pools`: `namespace/name` of those that report.

        `scope` is the set of schedules, a namespace.
        """
        self._type = _TYPES.get(urlsplit(url).scheme, "Redis")
        self._queues = tuple(queues)
        self._pools = tuple(pools)
        self._clock = clock
        self._scope = scope
        self._observer, self._schedules = (
            connect_observer(url, {}, queues),
            connect_schedules(url, scope=scope),
        )
        self._sender, self._writer = connect_observer(url, {}, queues), connect_schedules(url, scope=scope)
        unread = Unknown(reason=Reason.NOT_OBSERVED_YET, at=clock(), message="it has not been read yet")
        self.view = BrokerView(
            facts=unread, queues=dict.fromkeys(self._queues, unread), scopes={scope: unread}
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)
        self._thread.start()

    def carry_out(self, action: Action) -> None:
        """Do one action that concerns this broker; no other is looked at. Raises BrokerUnavailable."""
        match action:
            case SendDrain(worker=worker):
                self._sender.send(worker, encode_control(Control(method="drain")))
            case PutSchedule(entry=entry):
                self._writer.put([entry])
            case RemoveSchedule(uid=uid):
                self._writer.remove([uid])

    def close(self) -> None:
        """Read no more."""
        self._stopped.set()
        self._thread.join(2 * EVERY_SECONDS)
        self._sender.close()
        self._writer.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.view = self._read(self._observer, self._schedules)
            self._stopped.wait(EVERY_SECONDS)
        self._observer.close()
        self._schedules.close()

    def _read(self, observer: Observer, schedules: ScheduleStore) -> BrokerView:
        now = self._clock()
        try:
            depths = observer.depths(self._queues, horizon_seconds=START_SECONDS)
            entries = schedules.entries()
            scope = ScopeView(
                entries=entries,
                runs=schedules.runs(list(entries)),
                beat_running=schedules.leader() is not None,
            )
            reports = [
                report
                for pool in self._pools
                for report in observer.reports(pool, max_age_seconds=REPORTS_SECONDS)
            ]
        except BrokerUnavailable as error:
            return self._unknown(error, now)
        return BrokerView(
            facts=Known(value=BrokerFacts(type=self._type), at=now),
            queues={name: Known(value=_reading(depth), at=now) for name, depth in depths.items()},
            reports=dict(_heard(age, report, now) for age, report in reports),
            scopes={self._scope: Known(value=scope, at=now)},
        )

    def _unknown(self, error: BrokerUnavailable, now: datetime) -> BrokerView:
        """Return what is left when it cannot be read: an Unknown since the first failure in a row."""
        before = self.view
        since = before.facts.at if isinstance(before.facts, Unknown) else now
        reason = Reason.AUTH_FAILED if isinstance(error, BrokerRefused) else Reason.BROKER_UNREACHABLE
        unknown = Unknown(reason=reason, at=since, message=str(error))
        return BrokerView(facts=unknown, queues=dict.fromkeys(self._queues, unknown), reports=before.reports)


def _reading(depth: QueueDepth) -> QueueReading:
    return QueueReading(
        ready=depth.ready,
        claimed=depth.claimed,
        running=depth.running,
        expired=depth.expired,
        due=depth.due,
        waiting=depth.waiting,
        dead=depth.dead,
    )


def _heard(age_seconds: float, data: bytes, now: datetime) -> tuple[str, Reading[WorkerView]]:
    at = now - timedelta(seconds=age_seconds)
    try:
        report = decode_report(data)
    except msgspec.DecodeError as error:
        return "", Unknown(reason=Reason.BROKER_ERROR, at=at, message=f"a report cannot be read: {error}")
    return report.worker, Known(value=_worker(report, at), at=at)


def _worker(report: WorkerReport, at: datetime) -> WorkerView:
    runs = report.tasks.values()
    started = report.oldest_start_age_seconds
    return WorkerView(
        slots=report.slots,
        busy=report.busy,
        claimed=report.claimed,
        oldest_start_at=None if started is None else at - timedelta(seconds=started),
        draining=report.draining,
        drained=report.drained,
        ready=report.ready,
        runs=sum(each.succeeded + each.failed + each.retried for each in runs),
        runtime_seconds=sum(each.runtime_seconds for each in runs),
        settings=report.settings,
    )
