"""The benchmark's tasks, as a Celery application."""

import os
import time

from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_URL"], backend=os.environ["BENCH_URL"])
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")))


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
