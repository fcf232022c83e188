"""Beat's place on a real RabbitMQ, for the contract suite: each store has a connection that can be cut."""

from brokers import OnRabbitMQ
from lossy_proxy import LossyProxy
from muster.transports.connect import connect_schedules
from muster.wire.schedule_log import lock_of
from waiting import wait_for


class SchedulesOnRabbitMQ(OnRabbitMQ):
    """See `brokers.Broker`. A lease is a connection here."""

    urgent, patient = 9, 0

    def __init__(self, virtual_host):
        super().__init__(virtual_host)
        self._proxies = {}

    def make_schedules(self, scope):
        server = self.virtual_host.server
        proxy = LossyProxy(server.port).__enter__()
        url = self.url.replace(f":{server.port}/", f":{proxy.port}/")
        store = connect_schedules(url, scope=scope, delayed_type="classic")
        self._proxies[store] = proxy
        return store

    def end(self, leader):
        self._proxies[leader].cut()
        wait_for(lambda: not self.is_there(lock_of("shop")), what="the server to see the end of the leader")

    def lapse(self, leader, _seconds):
        self.end(leader)

    def is_there(self, queue):
        try:
            return bool(self.virtual_host.queue(queue))
        except AssertionError:
            return False

    def take(self, queue="mail"):
        self.serve(queue)
        return [one["properties"]["correlation_id"] for one in self.virtual_host.messages(queue)]

    def serve(self, queue="mail"):
        if not self.is_there(queue):
            self.virtual_host.declare(queue, **{"x-max-priority": 9})

    def depth(self, queue="mail", horizon_seconds=0.0):
        return Waits(self.virtual_host)

    def close(self):
        super().close()
        for proxy in self._proxies.values():
            proxy.__exit__()


class Waits:
    """How many messages wait in Celery's delayed queues."""

    def __init__(self, virtual_host):
        self._host = virtual_host

    @property
    def waiting(self):
        names = [f"celery_delayed_{level}" for level in range(28)]
        return wait_for(
            lambda: sum(self._host.queue(name).get("messages", 0) for name in names), what="a message waits"
        )
