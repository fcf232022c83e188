"""The consume cases on RabbitMQ, for `run.py`: Muster beside Celery on classic and quorum queues.

A queue is filled with copies of one message of Celery's client before its worker starts; a message near the
front and the last one note the time. So nothing is measured but consuming, and no server's statistics, which
are seconds behind, are asked.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import redis

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from rabbitmq import RabbitMQServer, VirtualHost

HERE = Path(__file__).parent
WARM_UP = 500


@contextmanager
def server() -> Iterator[RabbitMQServer]:
    """A RabbitMQ of our own."""
    with RabbitMQServer() as made:
        yield made


class Filled:
    """A virtual host whose queue `celery` is full of one task, between two messages that note the time."""

    def __init__(
        self, virtual_host: VirtualHost, queue_type: str, python: Path, backend: redis.Redis
    ) -> None:
        self.url = virtual_host.url
        self._backend = backend
        self._python = python
        self._queue_type = queue_type
        virtual_host.declare("celery", **{"x-queue-type": queue_type})
        self._connection = pika.BlockingConnection(pika.URLParameters(virtual_host.url))
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    def environment(self) -> dict[str, str]:
        """Return what the applications of both engines read."""
        return {"BENCH_BROKER": self.url, "BENCH_QUEUE_TYPE": self._queue_type}

    def template(self, task: str) -> tuple[bytes, pika.BasicProperties]:
        """Return a message of a task as Celery's own client sends it."""
        code = f"import tasks_celery as t; t.{task}.delay()"
        environment = {**os.environ, **self.environment()}
        subprocess.run([self._python, "-c", code], check=True, cwd=HERE, env=environment)
        while True:
            method, properties, body = self._channel.basic_get("celery", auto_ack=True)
            if method:
                return body, properties

    def fill(self, task: str, count: int) -> None:
        """Put warm-up, mark, `count` tasks and a mark into the queue."""
        noop, mark = self.template(task), self.template("mark")
        plan = [noop] * WARM_UP + [mark] + [noop] * count + [mark]
        for number, (body, properties) in enumerate(plan):
            properties.headers["id"] = properties.correlation_id = (
                f"{number:08d}-0000-4000-8000-{os.getpid():012d}"
            )
            self._channel.basic_publish("", "celery", body, properties)

    def seconds(self, limit: float = 300.0) -> float:
        """Return how long it took from mark to mark."""
        end = time.monotonic() + limit
        while self._backend.llen("marks") < 2:
            if time.monotonic() > end:
                raise SystemExit(f"bench: after {limit:.0f} s the queue is still not empty")
            self._connection.process_data_events(0.02)  # it waits for that long, and sends heartbeats
        first, last = sorted(float(at) for at in self._backend.lrange("marks", 0, -1))
        return last - first

    def close(self) -> None:
        """Give up the connection."""
        self._connection.close()


def consume(engine, broker, backend, python, queue_type, task, count, *arguments, **environment):
    """Tasks a second of one worker with two prefork processes."""
    backend.flushdb()
    with broker.virtual_host() as virtual_host:
        filled = Filled(virtual_host, queue_type, python, backend)
        try:
            filled.fill(task, count)
            words = ("-P", "prefork", "-c", "2", *arguments)
            with engine.started(*words, **filled.environment(), **environment):
                return count / filled.seconds()
        finally:
            filled.close()
