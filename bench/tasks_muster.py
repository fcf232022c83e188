"""The benchmark's tasks, as a Muster application: Celery's file but for one import and the prefetch."""

import os
import time

from muster import Muster

app = Muster("bench", broker=os.environ["BENCH_URL"], backend=os.environ["BENCH_URL"])
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
