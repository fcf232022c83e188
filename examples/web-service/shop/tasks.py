"""The shop's tasks: `muster -A shop.tasks worker` finds the application here."""

import hashlib
import time

from muster import Muster

from .books import books

app = Muster("shop")  # where the broker and the results are, its environment says


@app.task(bind=True)
def confirm(self, order, items):
    """Price an order, sign it, and return the confirmation."""
    books().begin(self.request.id)
    total = sum(item["quantity"] * item["cents"] for item in items)
    lines = "\n".join(f"{item['quantity']} x {item['name']}" for item in items)
    signature = hashlib.sha256(f"{order}\n{lines}\n{total}".encode()).hexdigest()
    books().end(self.request.id)
    return {"order": order, "cents": total, "signature": signature}


@app.task(bind=True)
def pack(self, order, seconds):
    """Pack an order, which takes its time."""
    books().begin(self.request.id)
    time.sleep(seconds)
    books().end(self.request.id)
    return {"order": order, "packed": True}


@app.task(bind=True)
def close_of_business(self):
    """Count what was confirmed so far: a Schedule sends this."""
    books().begin(self.request.id)
    confirmed = books().confirmed()
    books().end(self.request.id)
    return confirmed
