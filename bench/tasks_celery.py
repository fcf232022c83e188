"""The benchmark's tasks, as a Celery application."""

import os
import time

import redis
from celery import Celery

backend = os.environ["BENCH_URL"]
app = Celery("bench", broker=os.environ.get("BENCH_BROKER", backend), backend=backend)
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")))


if os.environ.get("BENCH_QUEUE_TYPE") == "quorum":
    app.conf.update(task_default_queue_type="quorum", worker_detect_quorum_queues=True)


@app.task(name="bench.noop")
def noop():
    """Do nothing; its result is stored."""


@app.task(name="bench.quiet", ignore_result=True)
def quiet():
    """Do nothing, without a result."""


@app.task(name="bench.clock")
def clock():
    """Return when it started."""
    return time.time()


@app.task(name="bench.mark", ignore_result=True)
def mark():
    """Note the time where everybody can read it."""
    with redis.Redis.from_url(backend) as client:
        client.rpush("marks", time.time())
