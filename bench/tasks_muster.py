"""The benchmark's tasks, as a Muster application: Celery's file but for one import and the prefetch."""

import os
import time

import redis

from muster import Muster

backend = os.environ["BENCH_URL"]
app = Muster("bench", broker=os.environ.get("BENCH_BROKER", backend), backend=backend)
app.conf.update(task_acks_late=True)


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
