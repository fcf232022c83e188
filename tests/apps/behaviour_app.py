"""Tasks that behave in all the ways that a worker must deal with."""

import os
import time

from muster import Muster
from muster.exceptions import Ignore, Reject, SoftTimeLimitExceeded

app = Muster("behaviour", broker=os.environ["BROKER"], backend=os.environ["BROKER"])


@app.task(name="b.add")
def add(x, y):
    return x + y


@app.task(name="b.fail")
def fail(text):
    raise ValueError(text)


@app.task(bind=True, name="b.retry", max_retries=3, default_retry_delay=0.05)
def retry(self, times):
    if self.request.retries < times:
        raise self.retry()
    return self.request.retries


@app.task(name="b.flaky", autoretry_for=(OSError,), max_retries=2, retry_backoff=0.05, retry_jitter=False)
def flaky():
    raise OSError("still away")


@app.task(name="b.tracked", track_started=True)
def tracked(until):
    while not os.path.exists(until):  # noqa: PTH110 - the test's word
        time.sleep(0.01)
    return os.getpid()


@app.task(name="b.soft", soft_time_limit=0.2)
def soft():
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        return "cleaned up"


@app.task(name="b.hard", time_limit=0.4)
def hard():
    time.sleep(30)


@app.task(name="b.ignore")
def ignore():
    raise Ignore


@app.task(bind=True, name="b.reject")
def reject(self, requeue=False):
    raise Reject("not for me", requeue=requeue and not self.request.delivery_info.get("redelivered"))


@app.task(name="b.calls")
def calls(n):
    """Publish from within a task."""
    return [add.delay(i, 1).id for i in range(n)]


@app.task(name="b.unserializable")
def unserializable():
    return object()


@app.task(name="b.leave")
def leave():
    raise SystemExit(3)


@app.task(name="b.big")
def big(text):
    return len(text)


@app.task(name="b.clock")
def clock():
    return time.time()
