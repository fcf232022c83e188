"""Brokers: one poller thread for each, however many queues and pools use it.

The loop says what shall be read (`ports.Demand`) and takes the latest view; a broker that does not answer
holds up nothing but itself. Readings are Known or Unknown with the reason, never a guess. URLs and passwords
stay in here.
"""

import asyncio
import base64
import hashlib
import logging
import ssl
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec
import redis

from muster.errors import (
    BrokerRefused,
    BrokerUnavailable,
    ConfigurationError,
    NoVirtualHost,
    PermissionDenied,
)
from muster.settings.urls import parse_broker_url, with_ca_file
from muster.transports.amqp.address import addresses, virtual_host
from muster.transports.base import Observer, QueueDepth
from muster.transports.connect import connect_observer, connect_schedules, is_rabbitmq
from muster.transports.schedules.base import ScheduleStore
from muster.wire.control import Control
from muster.wire.control import encode as encode_control
from muster.wire.report import WorkerReport
from muster.wire.report import decode as decode_report
from muster_operator.adapters.rabbitmq.management import ManagementError
from muster_operator.adapters.rabbitmq.names import OTHER
from muster_operator.adapters.rabbitmq.reader import VirtualHostReader, reflected
from muster_operator.adapters.rabbitmq.topology import HEARTBEAT_SECONDS
from muster_operator.api.conditions import Reason
from muster_operator.api.objects import Source
from muster_operator.errors import ClusterUnavailable, Conflicted, NotLeading, OperatorError
from muster_operator.model.actions import (
    Action,
    DeclareQueues,
    PutPolicy,
    PutSchedule,
    RemovePolicy,
    RemoveQueue,
    RemoveSchedule,
    SendDrain,
    SetDefaultQueueType,
)
from muster_operator.model.rabbitmq import Answer, VirtualHost
from muster_operator.model.readings import Known, Reading, Unknown
from muster_operator.model.world import BrokerFacts, QueueReading, SecretView, WorkerView
from muster_operator.ports import BrokerView, Demand, ScopeView, Secrets

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0
SLOWEST_POLL_SECONDS: Final = 15.0
"""How long a broker that does not answer is left alone at most."""
START_SECONDS: Final = 10.0
"""How long a pod needs to start: an ETA within it counts as load."""
REPORTS_SECONDS: Final = 60.0
FACTS_EVERY: Final = 30
"""Polls between two looks at the server's own facts."""
SECRET_EVERY: Final = timedelta(minutes=5)
"""A Secret is read by its name, which asks for the least rights, so a change of one that works is seen late;
one that is missing, wrong or refused is read every 3 s."""

OTHER_BROKERS: Final = frozenset({"redis+sentinel", "sentinel", "sqs", "kafka", "confluentkafka"})
"""Schemes of brokers that Celery knows and this version does not."""

FOR_VIRTUAL_HOSTS: Final = (DeclareQueues, PutPolicy, RemovePolicy, SetDefaultQueueType)

SecretKey = tuple[str, str]
"""(namespace, name)"""
Access = tuple[str, str, str]
"""(URL, URL of the management API, file of certificates)"""


def queue_reading(depth: QueueDepth) -> QueueReading:
    """Return the engine's figures as the decisions know them."""
    return QueueReading(
        ready=depth.ready,
        claimed=depth.claimed,
        running=depth.running,
        expired=depth.expired,
        due=depth.due,
        waiting=depth.waiting,
        dead=depth.dead,
        oldest_age_seconds=depth.oldest.seconds if depth.oldest else None,
        oldest_age_source=Source(depth.oldest.source) if depth.oldest else None,
    )


def worker_view(report: WorkerReport, at: datetime) -> WorkerView:
    """Return a report as the decisions know it. `at` is when it was made; its ages count from there."""
    runs = report.tasks.values()
    started = report.oldest_start_age_seconds
    return WorkerView(
        slots=report.slots,
        busy=report.busy,
        claimed=report.claimed,
        oldest_start_at=None if started is None else at - timedelta(seconds=started),
        draining=report.draining,
        leaving=report.leaving,
        drained=report.drained,
        ready=report.ready,
        runs=sum(each.succeeded + each.failed + each.retried for each in runs),
        runtime_seconds=sum(each.runtime_seconds for each in runs),
        settings=report.settings,
    )


def heard(age_seconds: float, data: bytes, now: datetime) -> tuple[str, Reading[WorkerView]] | None:
    """Return (worker, reading) of a report; None for one that cannot be read, which says nothing of whom."""
    at = now - timedelta(seconds=age_seconds)
    try:
        report = decode_report(data)
    except msgspec.DecodeError as error:
        logger.warning("a worker's report cannot be read and is left out: %s", error)
        return None
    return report.worker, Known(value=worker_view(report, at), at=at)


@dataclass(frozen=True, kw_only=True)
class _Secret:
    """What a Secret says, and the URL that only this module sees."""

    view: Reading[SecretView]
    url: str = ""
    management: str = ""
    """URL of RabbitMQ's management API; empty: none is named."""
    ca_file: str = ""
    place: str = ""
    """See `place_of`."""
    read_at: datetime

    @property
    def access(self) -> "Access":
        """What a poller is made of."""
        return self.url, self.management, self.ca_file


class _Poller:
    """Reads one broker from a thread of its own."""

    def __init__(
        self,
        secret: _Secret,
        name: str,
        clock: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        self.url = secret.url
        self.demand = Demand()
        self._clock = clock
        self._changed = changed
        unread = Unknown(reason=Reason.NOT_OBSERVED_YET, at=clock(), message="it has not been read yet")
        self.view = BrokerView(facts=unread)
        self._wake = threading.Event()
        self._stopped = False
        self._failures = 0
        self._polls = 0
        self._guard = threading.Lock()
        """Of the view, which both the reading thread and who acts on the virtual host put in its place."""
        self._done: list[tuple[Action, Sequence[Answer]]] = []
        """What was carried out since the read that is under way has begun, which may not have seen it."""
        self.host: VirtualHostReader | None = None
        if is_rabbitmq(secret.url):
            self.host = VirtualHostReader(secret.url, secret.management, secret.ca_file)
            self.view = replace(self.view, virtual_host=unread)
        self._stores: dict[str, ScheduleStore] = {}
        """By scope, each on a connection of its own."""
        self._thread = threading.Thread(target=self._run, name=f"broker {name}", daemon=True)
        self._thread.start()

    def ask(self, demand: Demand) -> None:
        """Read this from now on, at once when it is more than before."""
        if demand != self.demand:
            self.demand = demand
            self._wake.set()

    def carry_out(self, action: Action) -> None:
        """Do something on the virtual host; called from any thread."""
        if self.host is None:
            raise BrokerUnavailable("the broker is not RabbitMQ")
        answers = self.host.carry_out(action)
        with self._guard:
            self._done.append((action, answers))
            before, self.view = self.view, _with_done(self.view, [(action, answers)])
        if before.virtual_host != self.view.virtual_host:
            self._changed()
        self._wake.set()

    def stop(self) -> None:
        """Read no more; the thread ends after what it is at."""
        self._stopped = True
        self._wake.set()

    def _run(self) -> None:
        observer: Observer | None = None
        while not self._stopped:
            self._wake.clear()
            with self._guard:
                self._done.clear()
            demand = self.demand
            now = self._clock()
            try:
                if observer is None:
                    observer = connect_observer(self.url, {}, {})
                    demand = self.demand  # which has come meanwhile: nothing need be read without it
                # the same one for good: it knows what it has seen of the queues
                observer.dead_letters = {ask.queue: ask.dead_letter for ask in demand.queues}
                view = self._read(observer, demand, now)
                self._failures = 0
            except (BrokerUnavailable, ConfigurationError) as error:
                self._failures += 1
                view = self._unknown(error, now)
            except Exception as error:  # what stands there is nothing that we know: read on, and say so
                self._failures += 1
                logger.exception("broker %s cannot be understood", self._thread.name)
                view = self._unknown(error, now)
            with self._guard:
                before, self.view = self.view, _with_done(view, self._done)
            if _differs(before, self.view):
                self._changed()
            self._wake.wait(min(SLOWEST_POLL_SECONDS, POLL_SECONDS * 2 ** min(self._failures, 5)))
        for store in self._stores.values():
            store.close()
        if observer is not None:
            observer.close()
        if self.host is not None:
            self.host.close()

    def _read(self, observer: Observer, demand: Demand, now: datetime) -> BrokerView:
        facts = self.view.facts
        extra_runs = self.view.extra_runs
        if not isinstance(facts, Known) or self._polls % FACTS_EVERY == 0:
            server = observer.server()
            facts = Known(
                value=BrokerFacts(
                    type=server.type,
                    version=server.version,
                    eviction_policy=server.eviction_policy,
                    max_memory_bytes=server.max_memory_bytes,
                ),
                at=now,
            )
        if self._polls % 5 == 0:
            extra_runs = observer.extra_runs()
        self._polls += 1
        host = None
        if self.host is not None:
            asked = dict.fromkeys(name for ask in demand.queues for name in (ask.queue, ask.dead_letter))
            host = self.host.read([*asked, OTHER, *demand.more_queues], now)
        names = [ask.queue for ask in demand.queues]
        if isinstance(host, Known):  # to ask for what is not there costs a channel each time
            names = [name for name in names if name in host.value.there]
        queues = self._read_queues(observer, names, now) if names else {}
        reports: dict[str, Reading[WorkerView]] = {}
        for pool in demand.pools:
            for age, data in observer.reports(pool, max_age_seconds=REPORTS_SECONDS):
                found = heard(age, data, now)
                if found is not None:
                    reports[found[0]] = found[1]
        scopes: dict[str, Reading[ScopeView]] = {}
        for scope in set(self._stores) - set(demand.scopes):
            self._stores.pop(scope).close()
        for scope in demand.scopes:
            scopes[scope] = self._read_scope(scope, now)
        return BrokerView(
            facts=facts,
            queues=queues,
            reports=reports,
            scopes=scopes,
            extra_runs=extra_runs,
            virtual_host=host,
        )

    def _read_queues(
        self, observer: Observer, names: Sequence[str], now: datetime
    ) -> dict[str, Reading[QueueReading]]:
        """Read all queues at once or, where the broker refuses one (a key of another type), one by one."""
        try:
            depths = observer.depths(names, horizon_seconds=START_SECONDS)
        except BrokerUnavailable as error:
            if not isinstance(error.__cause__, redis.ResponseError) or isinstance(error, BrokerRefused):
                raise
            if len(names) > 1:
                alone = [self._read_queues(observer, [name], now) for name in names]
                return {name: reading for one in alone for name, reading in one.items()}
            return {names[0]: self._unread(names[0], str(error), now)}
        away = "the node of RabbitMQ that it lives on is away, and what is in it is not known"
        return {
            name: Known(value=queue_reading(depths[name]), at=now)
            if name in depths
            else self._unread(name, away, now)
            for name in names
        }

    def _unread(self, queue: str, message: str, now: datetime) -> Unknown:
        """Return the reading of a queue that the broker does not tell of, since when it has been so."""
        before = self.view.queues.get(queue)
        since = before.at if isinstance(before, Unknown) and before.reason == Reason.BROKER_ERROR else now
        return Unknown(reason=Reason.BROKER_ERROR, at=since, message=message)

    def _read_scope(self, scope: str, now: datetime) -> Reading[ScopeView]:
        store = self._stores.get(scope)
        if store is None:
            try:
                store = self._stores[scope] = connect_schedules(self.url, scope=scope)
            except (
                ConfigurationError
            ) as error:  # a broker without a place for schedules has queues all the same
                return Unknown(reason=Reason.BROKER_NOT_SUPPORTED, at=now, message=str(error))
        entries = store.entries()
        view = ScopeView(
            entries=entries,
            runs=store.runs(list(entries)) if entries else {},
            beat_running=store.leader() is not None,
        )
        return Known(value=view, at=now)

    def _unknown(self, error: Exception, now: datetime) -> BrokerView:
        """Return what is left when it cannot be read: an Unknown since the first failure in a row."""
        before = self.view
        since = now
        if isinstance(before.facts, Unknown) and before.facts.reason != Reason.NOT_OBSERVED_YET:
            since = before.facts.at
        if isinstance(error, NoVirtualHost):
            reason = Reason.VIRTUAL_HOST_NOT_FOUND
        elif isinstance(error, PermissionDenied):
            reason = Reason.PERMISSION_MISSING
        elif isinstance(error, BrokerRefused):
            reason = Reason.AUTH_FAILED
        elif isinstance(error, ConfigurationError):
            reason = Reason.BROKER_NOT_SUPPORTED
        elif isinstance(error, BrokerUnavailable) and not isinstance(error.__cause__, redis.ResponseError):
            reason = Reason.BROKER_UNREACHABLE
        else:
            reason = Reason.BROKER_ERROR  # it answers: loading its data, short of memory, …
        unknown = Unknown(reason=reason, at=since, message=str(error) or type(error).__name__)
        return BrokerView(
            facts=unknown,
            queues={ask.queue: unknown for ask in self.demand.queues},
            reports=before.reports,
            scopes=dict.fromkeys(self.demand.scopes, unknown),
            extra_runs=before.extra_runs,
            virtual_host=None if self.host is None else unknown,
        )


def _with_done(view: BrokerView, done: Iterable[tuple[Action, Sequence[Answer]]]) -> BrokerView:
    host = view.virtual_host
    for action, answers in done:
        host = None if host is None else reflected(host, action, answers)
    return replace(view, virtual_host=host)


def _differs(one: BrokerView, other: BrokerView) -> bool:
    """Whether anything has changed but by the time that has passed."""

    def plain(view: BrokerView) -> tuple[Any, ...]:
        def value(reading: Reading[Any]) -> Any:
            return reading.value if isinstance(reading, Known) else (reading.reason, reading.message)

        def said(reading: Reading[WorkerView]) -> Any:
            found = value(reading)
            return replace(found, oldest_start_at=None) if isinstance(found, WorkerView) else found

        def counted(reading: Reading[QueueReading]) -> Any:
            found = value(reading)
            if not isinstance(found, QueueReading):
                return found
            return replace(found, oldest_age_seconds=None, oldest_age_source=None)

        def virtual_host(reading: Reading[VirtualHost] | None) -> Any:
            found = None if reading is None else value(reading)
            if not isinstance(found, VirtualHost):
                return found
            return replace(found, management=value(found.management))

        return (
            value(view.facts),
            {name: counted(reading) for name, reading in view.queues.items()},
            {worker: said(reading) for worker, reading in view.reports.items()},
            {scope: value(reading) for scope, reading in view.scopes.items()},
            virtual_host(view.virtual_host),
        )

    return plain(one) != plain(other)


def _trusting(url: str, ca_file: str) -> str:
    """Return the URL with the Secret's certificates. Raises ConfigurationError when it cannot be used so."""
    servers = [each.strip() for each in url.split(";")]
    trusting = [with_ca_file(each, ca_file or None) for each in servers]
    if trusting != servers:
        try:
            ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise ConfigurationError(f"its ca.crt is no file of certificates in PEM: {error}") from None
    whole = ";".join(trusting)
    if is_rabbitmq(whole):
        addresses(whole, heartbeat_seconds=HEARTBEAT_SECONDS)
    return whole


def place_of(url: str) -> str:
    """Return what tells brokers apart, hashed: on RabbitMQ servers and virtual host, whoever asks.

    However they are written: who writes to a virtual host must know all who want something there.
    """
    place = url
    if is_rabbitmq(url):
        place = repr(sorted({_server_of(each.strip()) for each in url.split(";") if each.strip()}))
    return hashlib.sha256(place.encode()).hexdigest()


def _server_of(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url)
    port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
    return (parts.hostname or "localhost").lower(), port, virtual_host(parts.path)


_SCHEMES_WITH_HOSTS: Final = frozenset({"redis", "rediss", "amqp", "amqps", "pyamqp", "http", "https"})


def in_namespace(url: str, namespace: str) -> str:
    """Return the URL with each host of one word, such as `broker`, as a Service of that name in `namespace`.

    A worker finds it there by its pod's search path; the operator's own path leads to its own namespace, and
    the same words in two namespaces are two brokers.
    """
    return ";".join(_server_in_namespace(each, namespace) for each in url.split(";"))


def _server_in_namespace(url: str, namespace: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # whoever uses it says what is wrong with it
        return url
    host = parts.hostname or ""
    if parts.scheme not in _SCHEMES_WITH_HOSTS or host in {"", "localhost"} or "." in host or ":" in host:
        return url
    credentials, at, place = parts.netloc.rpartition("@")
    _, colon, port = place.partition(":")
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}{host}.{namespace}.svc{colon}{port}"))


class BrokerAdapter:
    """See `ports.Brokers`. Lives in the loop's thread, but for its pollers."""

    def __init__(
        self,
        secrets: Secrets,
        *,
        clock: Callable[[], datetime],
        changed: Callable[[SecretKey], None],
        in_cluster: bool = False,
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        """`in_cluster`: a Service's short name in a Secret is one of the Secret's namespace."""
        self._source = secrets
        self._in_cluster = in_cluster
        self._may_write = may_write
        self._clock = clock
        self._changed = changed
        self._secrets: dict[SecretKey, _Secret] = {}
        self._pollers: dict[Access, _Poller] = {}
        self._unusable: dict[Access, Unknown] = {}
        """What no poller can be made of, for reasons that nobody has thought of."""
        self._files = tempfile.TemporaryDirectory(prefix="muster-operator-")
        self._loop = asyncio.get_running_loop()

    # Secrets

    async def refresh(self, wanted: set[SecretKey]) -> set[SecretKey]:
        """Read the Secrets that are due; return those that say something else than before."""
        now = self._clock()
        for key in set(self._secrets) - wanted:
            del self._secrets[key]
        changed = set()
        for key in wanted:
            old = self._secrets.get(key)
            if old is not None and now - old.read_at < self._patience(old):
                continue
            try:
                new = await self._read_secret(key, old, now)
            except Exception as error:  # noqa: BLE001 - it is one tenant's: all others are served
                new = _Secret(view=_not_understood(error, _since(old, now)), read_at=now)
                if old is None or _content(old.view) != _content(new.view):
                    _log(key, error)
            self._secrets[key] = new
            if old is None or _content(old.view) != _content(new.view):
                changed.add(key)
        return changed

    def _patience(self, secret: _Secret) -> timedelta:
        """A Secret that is missing or wrong is looked at more often: somebody is about to mend it."""
        poller = self._pollers.get(secret.access)
        refused = poller is not None and isinstance(poller.view.facts, Unknown)
        refused = refused or secret.access in self._unusable
        return timedelta(seconds=3) if isinstance(secret.view, Unknown) or refused else SECRET_EVERY

    async def _read_secret(self, key: SecretKey, old: _Secret | None, now: datetime) -> _Secret:
        since = _since(old, now)
        try:
            document = await self._source.secret(*key)
        except OperatorError as error:
            if old is not None:  # what was read goes on to hold: the API server may be away for a while
                return replace(old, read_at=now)
            return _Secret(
                view=Unknown(reason=Reason.NOT_OBSERVED_YET, at=since, message=str(error)), read_at=now
            )
        if document is None:
            message = "it does not exist in this namespace"
            return _Secret(
                view=Unknown(reason=Reason.SECRET_NOT_FOUND, at=since, message=message), read_at=now
            )
        data = {name: base64.b64decode(value) for name, value in (document.get("data") or {}).items()}
        reason = Reason.SECRET_INVALID
        try:
            url = data["url"].decode().strip()
            parse_broker_url(url)
            if self._in_cluster:
                url = in_namespace(url, key[0])
            ca_file = str(self._file(data["ca.crt"])) if data.get("ca.crt") else ""
            url = _trusting(url, ca_file)
        except KeyError:
            problem = "it has no key url"
        except UnicodeDecodeError:
            problem = "its url is no text"
        except ConfigurationError as error:
            problem = str(error)
            if url.partition("://")[0] in OTHER_BROKERS:
                reason = Reason.BROKER_NOT_SUPPORTED
        else:
            management = data.get("managementUrl", b"").decode(errors="replace").strip()
            if self._in_cluster:
                management = management and in_namespace(management, key[0])
            view = SecretView(name=key[1], keys=frozenset(data), hash=_hash(data))
            return _Secret(
                view=Known(value=view, at=now),
                url=url,
                management=management,
                ca_file=ca_file,
                place=place_of(url),
                read_at=now,
            )
        return _Secret(view=Unknown(reason=reason, at=since, message=problem), read_at=now)

    def _file(self, content: bytes) -> Path:
        path = Path(self._files.name, hashlib.sha256(content).hexdigest()[:16] + ".crt")
        path.write_bytes(content)
        return path

    def secret(self, namespace: str, name: str) -> Reading[SecretView]:
        """Return what is known of a Secret."""
        found = self._secrets.get((namespace, name))
        if found is None:
            return Unknown(
                reason=Reason.NOT_OBSERVED_YET, at=self._clock(), message="it has not been read yet"
            )
        return found.view

    # readings

    def ask(self, demands: Mapping[SecretKey, Demand]) -> None:
        """Read this from now on: Secrets that say the same share a poller."""
        by_access: dict[Access, list[Demand]] = {}
        keys: dict[Access, list[SecretKey]] = {}
        by_place: dict[str, list[Demand]] = {}
        for key, demand in demands.items():
            secret = self._secrets.get(key)
            if secret is not None and secret.url:
                by_access.setdefault(secret.access, []).append(demand)
                keys.setdefault(secret.access, []).append(key)
                by_place.setdefault(secret.place, []).append(demand)
        for access in set(self._pollers) - set(by_access):
            self._pollers.pop(access).stop()
        for access in set(self._unusable) - set(by_access):
            del self._unusable[access]
        for access, parts in by_access.items():
            secret = self._secrets[keys[access][0]]
            if access not in self._pollers and not self._make_poller(access, keys[access][0]):
                continue
            queues = tuple(dict.fromkeys(ask for part in parts for ask in part.queues))
            # whoever writes to a virtual host must know what all the others want there
            here = set(queues)
            others = [ask for part in by_place[secret.place] for ask in part.queues if ask not in here]
            more = {name for part in parts for name in part.more_queues}
            more |= {name for ask in others for name in (ask.queue, ask.dead_letter)}
            self._pollers[access].ask(
                Demand(
                    queues=queues,
                    pools=tuple(dict.fromkeys(pool for part in parts for pool in part.pools)),
                    scopes=tuple(dict.fromkeys(scope for part in parts for scope in part.scopes)),
                    more_queues=tuple(sorted(more)),
                )
            )

    def _make_poller(self, access: Access, key: SecretKey) -> bool:
        """Return whether there is one now. One that cannot be made is tried again every few minutes."""
        now = self._clock()
        failed = self._unusable.get(access)
        if failed is not None and now - failed.at < SECRET_EVERY:
            return False
        try:
            poller = _Poller(self._secrets[key], "/".join(key), self._clock, self._tell(access))
        except Exception as error:  # noqa: BLE001 - it is one tenant's: all others are served
            _log(key, error)
            self._unusable[access] = _not_understood(error, now)
            return False
        self._unusable.pop(access, None)
        self._pollers[access] = poller
        return True

    def _tell(self, access: Access) -> Callable[[], None]:
        def told() -> None:
            for key, secret in self._secrets.items():
                if secret.access == access:
                    self._changed(key)

        def from_thread() -> None:
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(told)

        return from_thread

    def view(self, namespace: str, secret: str) -> BrokerView:
        """Return what was read last of the broker that a Secret names."""
        found = self._secrets.get((namespace, secret))
        poller = self._pollers.get(found.access) if found is not None else None
        if poller is not None:
            return poller.view
        if found is not None and isinstance(found.view, Unknown):
            return BrokerView(facts=found.view)
        if found is not None and found.access in self._unusable:
            return BrokerView(facts=self._unusable[found.access])
        unread = Unknown(
            reason=Reason.NOT_OBSERVED_YET, at=self._clock(), message="the broker has not been read yet"
        )
        return BrokerView(facts=unread)

    def endpoint(self, namespace: str, secret: str) -> str:
        """Return what tells brokers apart: a hash of the place; empty when the Secret cannot be read."""
        found = self._secrets.get((namespace, secret))
        return found.place if found is not None and found.url else ""

    def views(self) -> Mapping[str, BrokerView]:
        """Return every broker's view by its first Secret's `namespace/name`, for metrics."""
        found = {}
        for (namespace, name), secret in self._secrets.items():
            if secret.access in self._pollers:
                found[f"{namespace}/{name}"] = self._pollers[secret.access].view
        return found

    # actions

    async def carry_out(self, action: Action) -> None:
        """Do one action; see `ports.Brokers`. Raises ClusterUnavailable when the broker is away."""
        broker = getattr(action, "broker", None)
        assert broker is not None
        if not self._may_write():
            raise NotLeading(f"{type(action).__name__}: another operator leads")
        secret = self._secrets.get((broker.namespace, broker.secret))
        if secret is None or not secret.url:
            raise ClusterUnavailable(f"Secret {broker.secret} cannot be read")
        try:
            if isinstance(action, FOR_VIRTUAL_HOSTS):
                poller = self._pollers.get(secret.access)
                if poller is None:
                    raise ClusterUnavailable(f"the broker of Secret {broker.secret} is not read any more")
                await asyncio.to_thread(poller.carry_out, action)
            else:
                await asyncio.to_thread(_do, action, secret.url)
        except (BrokerUnavailable, ManagementError) as error:
            raise ClusterUnavailable(str(error)) from error

    def close(self) -> None:
        """Stop all pollers."""
        for poller in self._pollers.values():
            poller.stop()
        self._files.cleanup()


def _do(action: Action, url: str) -> None:
    match action:
        case SendDrain(worker=worker, leave=leave):
            observer = connect_observer(url, {}, {})
            try:
                observer.send(worker, encode_control(Control(method="leave" if leave else "drain")))
            finally:
                observer.close()
        case RemoveQueue(queue=queue, dead_letter=dead_letter):
            observer = connect_observer(url, {}, {})
            try:
                if not observer.remove_queue(queue, dead_letter):
                    raise Conflicted(f"queue {queue} is not empty any more")
            finally:
                observer.close()
        case PutSchedule(broker=broker, entry=entry):
            store = connect_schedules(url, scope=broker.namespace)
            try:
                store.put([entry])
            finally:
                store.close()
        case RemoveSchedule(broker=broker, uid=uid):
            store = connect_schedules(url, scope=broker.namespace)
            try:
                store.remove([uid])
            finally:
                store.close()
        case _:
            raise AssertionError(f"{type(action).__name__} is not for a broker")


def _since(old: _Secret | None, now: datetime) -> datetime:
    """Return since when a Secret that cannot be used now cannot be."""
    return old.view.at if old is not None and isinstance(old.view, Unknown) else now


def _not_understood(error: Exception, at: datetime) -> Unknown:
    message = f"it cannot be used ({type(error).__name__}); the operator's log says where"
    return Unknown(reason=Reason.SECRET_INVALID, at=at, message=message)


def _log(key: SecretKey, error: Exception) -> None:
    """Say where it failed, but not the error's own words: they may quote a URL with its password."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("Secret %s/%s cannot be used: %s\n%s", *key, type(error).__name__, where)


def _content(reading: Reading[SecretView]) -> tuple[str, ...]:
    if isinstance(reading, Known):
        return ("known", reading.value.hash)
    return ("unknown", reading.reason, reading.message)


def _hash(data: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(data):
        digest.update(name.encode() + b"\0" + hashlib.sha256(data[name]).digest())
    return digest.hexdigest()[:16]


def utc_now() -> datetime:
    """Return this moment: the operator's clock."""
    return datetime.now(UTC)
