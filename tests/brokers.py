"""A broker under test, whichever it is: the ports, and what they do not offer.

The contract suite and the state machine use it to look inside a broker and to move its time. It decides
nothing about what a broker must hold.
"""

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import redis

from muster.core.effects import Publication
from muster.embedded import Database
from muster.transports.amqp.names import QUEUE_HEADER, REASON_HEADER, TEXT_HEADER
from muster.transports.amqp.observer import AmqpObserver
from muster.transports.amqp.publisher import AmqpPublisher
from muster.transports.amqp.transport import AmqpTransport
from muster.transports.base import Observer, Publisher, Settlement, Start, Tick, Transport, Turn
from muster.transports.memory import MemoryBroker
from muster.transports.schedules.base import ScheduleStore
from muster.transports.schedules.memory import MemorySchedules
from muster.transports.schedules.sqlite import SQLiteSchedules
from muster.transports.sqlite import SQLiteObserver, SQLitePublisher, SQLiteTransport
from muster.wire.keys import RedisKeys
from muster.wire.message import pack, peek
from waiting import wait_for

POOL = "shop/mail"


def message(task_id="1", queue="mail", published_at=None, **headers):
    return pack(
        headers={"task": "shop.send", "id": task_id, "retries": 0, **headers},
        body='[["x"],{"n":1},{}]',
        queue=queue,
        task_id=task_id,
        delivery_tag="",
        published_at=published_at,
    )


def one_worker(url, *queues, **options):
    """Return the transport of a worker on RabbitMQ, of the queue `mail` or of these, with these options."""
    return AmqpTransport(
        url,
        queues=queues or ("mail",),
        worker="one",
        pool=POOL,
        lease_seconds=60,
        dead_letters={},
        **options,
    )


def claim(transport, count=100, run=0):
    """Claim so many; where they are pushed, all those that are on their way as well."""
    found = list(transport.turn(Turn(claim=count, run=run)).deliveries)
    while isinstance(transport, PushedTo) and len(found) < count:
        last = transport.all_is_here()
        left = run - sum(delivery.running for delivery in found)
        found += transport.turn(Turn(claim=count - len(found), run=left)).deliveries
        if last:
            break
    return found


def raws(deliveries):
    return [delivery.raw for delivery in deliveries]


def hear_of_alarm(transport):
    """Wait until a server short of memory has said so, which it does to who publishes, and not before."""
    wait_for(
        lambda: transport.tick(Tick(report=b"{}")) and bool(transport._out.blocked),
        what="the server to say that it is short of memory",
    )


def ids(deliveries):
    """The tasks' ids of what was claimed."""
    return [peek(delivery.raw).id for delivery in deliveries]


def settle(transport, delivery, verdict, **details):
    settlement = Settlement(tag=delivery.tag, queue=delivery.queue, verdict=verdict, **details)
    [ours] = transport.turn(Turn(settle=[settlement])).settled
    return ours


def start(transport, delivery, extra_run=""):
    [ours] = transport.turn(Turn(start=[Start(delivery.tag, delivery.queue, extra_run)])).started
    return ours


class Broker(ABC):
    """One broker under test, and what the ports do not offer: to look inside it and to move its time."""

    urgent, patient = 0, 9
    """Priorities: served first, served last."""

    def __init__(self):
        self._open = []

    def transport(self, *queues, worker="one", lease_seconds=60.0, dead_letters=None) -> Transport:
        made = self.make_transport(queues or ("mail",), worker, lease_seconds, dead_letters or {})
        self._open.append(made)
        return made

    def publisher(self) -> Publisher:
        self._open.append(made := self.make_publisher())
        return made

    def observer(self) -> Observer:
        self._open.append(made := self.make_observer())
        return made

    def schedules(self, scope="shop") -> ScheduleStore:
        self._open.append(made := self.make_schedules(scope))
        return made

    def publish(self, *raws, queue="mail", **options):
        self.publisher().publish([Publication(queue, raw, **options) for raw in raws])

    def lapse(self, _leader, seconds):
        """Let the lease of a leader run out, that was taken for so long: nothing is heard of it."""
        self.elapse(seconds)

    def end(self, _leader):
        """End the process with this store of schedules, without a word: only a connection would show it."""
        return

    def take(self, queue="mail"):
        """Take all messages out of a queue; return their ids, oldest first."""
        return [peek(one.raw).id for one in self.transport(queue).turn(Turn(claim=1000)).deliveries]

    def serve(self, queue="mail"):
        """Make a queue what it is once a worker has served it."""
        self.transport(queue).tick(Tick())

    def depth(self, queue="mail", horizon_seconds=0.0):
        return self.observer().depths([queue], horizon_seconds=horizon_seconds)[queue]

    def close(self):
        for one in reversed(self._open):
            one.close()

    @abstractmethod
    def make_transport(self, queues, worker, lease_seconds, dead_letters): ...

    @abstractmethod
    def make_publisher(self): ...

    @abstractmethod
    def make_observer(self): ...

    @abstractmethod
    def make_schedules(self, scope): ...

    @abstractmethod
    def now(self) -> float: ...

    @abstractmethod
    def elapse(self, seconds): ...

    @abstractmethod
    def dead(self, place) -> list[tuple[str, str, str, bytes]]:
        """(reason, text, queue, message)."""

    @abstractmethod
    def result(self, task_id) -> bytes | None: ...


class PushedTo(AmqpTransport):
    """A transport to which messages are pushed, that can tell whether some are still on their way."""

    def all_is_here(self):
        queues = [queue for queue in self.consumer.queues if queue not in self._absent]
        ready = [self._out.count(queue) for queue in queues]
        self.consumer.sync()
        return not any(ready)


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self):
        return self.now


@dataclass
class Results:
    documents: dict[str, bytes] = field(default_factory=dict)

    def store(self, results):
        for result in results:
            self.documents[result.task_id] = result.document


class OnMemory(Broker):
    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.results = Results()
        self.broker = MemoryBroker(self.clock, self.results.store)
        self._schedules = {}

    def make_transport(self, queues, worker, lease_seconds, dead_letters):
        return self.broker.transport(
            queues=queues, worker=worker, pool=POOL, lease_seconds=lease_seconds, dead_letters=dead_letters
        )

    def make_publisher(self):
        return self.broker.publisher()

    def make_observer(self):
        return self.broker.observer()

    def make_schedules(self, scope):
        if scope not in self._schedules:
            self._schedules[scope] = MemorySchedules(self.broker, clock=self.clock)
        return self._schedules[scope]

    def now(self):
        return self.clock()

    def elapse(self, seconds):
        self.clock.now += seconds

    def dead(self, place):
        return [(one.reason, one.text, one.queue, one.raw) for one in self.broker.dead(place)]

    def result(self, task_id):
        return self.results.documents.get(task_id)

    def places(self):
        """(place, message) of every message, wherever it is."""
        return list(self.broker.places())


class OnSQLite(Broker):
    def __init__(self, path):
        super().__init__()
        self.url = f"sqlite:///{path}"
        self.clock = Clock()
        self.database = Database(path)

    def make_transport(self, queues, worker, lease_seconds, dead_letters):
        return SQLiteTransport(
            self.url,
            queues=queues,
            worker=worker,
            pool=POOL,
            lease_seconds=lease_seconds,
            dead_letters=dead_letters,
            results_joined=True,
            clock=self.clock,
        )

    def make_publisher(self):
        return SQLitePublisher(self.url, self.clock)

    def make_observer(self):
        return SQLiteObserver(self.url, {}, self.clock)

    def make_schedules(self, scope):
        return SQLiteSchedules(self.url, scope=scope, clock=self.clock)

    def now(self):
        return self.clock()

    def elapse(self, seconds):
        self.clock.now += seconds

    def query(self, text, *values):
        with self.database.reading() as connection:
            return connection.execute(text, values).fetchall()

    def dead(self, place):
        return self.query(
            "SELECT reason, text, queue, raw FROM dead_letters WHERE place = ? ORDER BY id", place
        )

    def result(self, task_id):
        found = self.query("SELECT document FROM results WHERE task_id = ?", task_id)
        return found[0][0] if found else None

    def places(self):
        """(place, message) of every message, wherever it is."""
        names = ("ready", "claimed", "running", "waiting")
        return [(names[state], raw) for state, raw in self.query("SELECT state, raw FROM messages")] + [
            ("dead", raw) for (raw,) in self.query("SELECT raw FROM dead_letters")
        ]

    def close(self):
        super().close()
        self.database.close()


def wait_for_clock(broker, seconds):
    """Let time go by on a broker whose clock is nobody's to move."""
    then = broker.now() + seconds
    wait_for(broker.now, until=lambda now: now > then, what="the clock to move", every_seconds=0.005)


class OnRedis(Broker):
    def __init__(self, url):
        super().__init__()
        self.url = url
        self.client = redis.Redis.from_url(url)

    def make_transport(self, queues, worker, lease_seconds, dead_letters):
        from muster.transports.connect import connect_transport

        return connect_transport(
            self.url,
            queues=queues,
            worker=worker,
            pool=POOL,
            lease_seconds=lease_seconds,
            dead_letters=dead_letters,
            options={},
            results_prefix="",
        )

    def make_publisher(self):
        from muster.transports.connect import connect_publisher

        return connect_publisher(self.url, {})

    def make_observer(self):
        from muster.transports.connect import connect_observer

        return connect_observer(self.url, {}, {})

    def make_schedules(self, scope):
        from muster.transports.connect import connect_schedules

        return connect_schedules(self.url, scope=scope)

    def now(self):
        seconds, micros = self.client.time()
        return seconds + micros / 1e6

    def elapse(self, seconds):
        wait_for_clock(self, seconds)

    def dead(self, place):
        return [
            (f[b"reason"].decode(), f[b"text"].decode(), f[b"queue"].decode(), f[b"message"])
            for _, f in self.client.xrange(RedisKeys().dead(place))
        ]

    def result(self, task_id):
        return self.client.get(RedisKeys().result(task_id))

    def close(self):
        super().close()
        self.client.close()


class OnRabbitMQ(Broker):
    """A virtual host of a real server; `declare` makes its queues of another type than the default."""

    def __init__(self, virtual_host, queue_type="classic"):
        super().__init__()
        self.virtual_host = virtual_host
        self.url = virtual_host.url
        self.queue_type = queue_type

    def declare(self, *queues):
        for queue in queues:
            self.virtual_host.declare(queue, **{"x-queue-type": self.queue_type})

    def make_transport(self, queues, worker, lease_seconds, dead_letters):
        return PushedTo(
            self.url,
            queues=queues,
            worker=worker,
            pool=POOL,
            lease_seconds=lease_seconds,
            dead_letters=dead_letters,
            delayed_type="classic",
        )

    def make_publisher(self):
        return AmqpPublisher(self.url, delayed_type="classic")

    def make_observer(self):
        return AmqpObserver(self.url)

    def make_schedules(self, scope):
        from muster.transports.connect import connect_schedules

        return connect_schedules(self.url, scope=scope, delayed_type="classic")

    def now(self):
        return time.time()

    def elapse(self, seconds):
        wait_for_clock(self, seconds)

    def dead(self, place):
        found = []
        for one in self.virtual_host.messages(place):
            headers = one["properties"]["headers"]
            said = [headers[name] for name in (REASON_HEADER, TEXT_HEADER, QUEUE_HEADER)]
            found.append((*said, one["payload"].encode()))
        return found

    def result(self, _task_id):
        """None: RabbitMQ keeps no results."""
