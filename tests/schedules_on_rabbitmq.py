"""Beat's place on a real RabbitMQ, for the contract suite: each store has a connection that can be cut."""

from urllib.parse import quote

from brokers import Broker
from lossy_proxy import LossyProxy
from muster.transports.connect import connect_schedules
from muster.wire.schedule_log import lock_of
from waiting import wait_for


class SchedulesOnRabbitMQ(Broker):
    """See `brokers.Broker`. Of the other ports it has none."""

    urgent, patient = 9, 0

    def __init__(self, virtual_host):
        super().__init__()
        self.host = virtual_host
        self._proxies = {}

    def make_schedules(self, scope):
        proxy = LossyProxy(self.host.server.port)
        proxy.__enter__()
        store = connect_schedules(
            f"amqp://guest:guest@127.0.0.1:{proxy.port}/{quote(self.host.name, safe='')}", scope=scope
        )
        self._proxies[store] = proxy
        return store

    def end(self, leader):
        self._proxies[leader].cut()
        wait_for(lambda: not self.is_locked(), what="the server to see the end of the leader")

    def lapse(self, leader, _seconds):
        self.end(leader)

    def is_locked(self, scope="shop"):
        try:
            self.host.queue(lock_of(scope))
        except AssertionError:
            return False
        return True

    def take(self, queue="mail"):
        self.serve(queue)
        return [one["properties"]["correlation_id"] for one in self.host.messages(queue)]

    def serve(self, queue="mail"):
        try:
            self.host.queue(queue)
        except AssertionError:
            self.host.declare(queue, **{"x-max-priority": 9})

    def depth(self, queue="mail", horizon_seconds=0.0):
        return Waits(self.host)

    def now(self):
        import time

        return time.time()

    def elapse(self, seconds):
        end = self.now() + seconds
        wait_for(self.now, until=lambda now: now > end, what="time to pass", every_seconds=0.02)

    def close(self):
        super().close()
        for proxy in self._proxies.values():
            proxy.__exit__()

    make_transport = make_publisher = make_observer = dead = result = None


class Waits:
    """How many messages wait in Celery's delayed queues."""

    def __init__(self, host):
        self._host = host

    @property
    def waiting(self):
        names = [f"celery_delayed_{level}" for level in range(28)]
        return wait_for(
            lambda: sum(self._host.queue(name).get("messages", 0) for name in names), what="a message waits"
        )
