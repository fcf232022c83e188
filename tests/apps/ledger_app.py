"""Tasks that write down each start and end by themselves, outside Muster: one line, appended at once.

The file is named by LEDGER. `tests/ledger.py` reads it.
"""

import os
import time
from pathlib import Path

from muster import Muster

app = Muster("ledger", broker=os.environ["BROKER"], backend=os.environ.get("RESULTS", os.environ["BROKER"]))


def write(what, task_id):
    descriptor = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{what} {task_id} {os.getpid()} {time.monotonic()}\n".encode())
    finally:
        os.close(descriptor)


@app.task(bind=True, name="ledger.work")
def work(self, seconds=0.0, until=None):
    """Start, take `seconds` (or wait for the file `until`), end."""
    write("start", self.request.id)
    if until is not None:
        while not Path(until).exists():
            time.sleep(0.01)
    elif seconds:
        time.sleep(seconds)
    write("end", self.request.id)
    return self.request.id


@app.task(bind=True, name="ledger.early", acks_late=False)
def early(self, seconds=0.0):
    """The same, acknowledged at its start."""
    write("start", self.request.id)
    time.sleep(seconds)
    write("end", self.request.id)


@app.task(bind=True, name="ledger.eat")
def eat(self, mebibytes):
    """Ask for more and more memory."""
    write("start", self.request.id)
    eaten = [bytearray(2**20) for _ in range(mebibytes)]
    write("end", self.request.id)
    return len(eaten)


@app.task(bind=True, name="ledger.spin")
def spin(self, seconds):
    """Keep the processor busy."""
    write("start", self.request.id)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    write("end", self.request.id)


@app.task(bind=True, name="ledger.poison")
def poison(self):
    """Kill the process that runs it, every time."""
    write("start", self.request.id)
    os.kill(os.getpid(), 9)
