"""The same tasks for a Muster and for a Celery worker, whichever SIDE says, with results over the broker."""

import os

if os.environ["SIDE"] == "celery":
    from celery import Celery as App
else:
    from muster import Muster as App

app = App("shop", broker=os.environ["BROKER"], backend="rpc://")
app.conf.worker_prefetch_multiplier = 1


@app.task(name="shop.add")
def add(x, y):
    return x + y


@app.task(name="shop.fail")
def fail(text):
    raise KeyError(text)


@app.task(name="shop.tell", bind=True)
def tell(self):
    self.update_state(state="PROGRESS", meta={"done": 1})
    return "told"


@app.task(name="shop.again", bind=True, max_retries=2)
def again(self):
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    return self.request.retries
