"""Tasks that write down each start and end by themselves, outside Muster: one line, appended at once.

The file is named by LEDGER. `tests/ledger.py` reads it.
"""

import os
import threading
import time
from pathlib import Path

from muster import Muster
from muster.exceptions import SoftTimeLimitExceeded

app = Muster("ledger", broker=os.environ["BROKER"], backend=os.environ.get("RESULTS", os.environ["BROKER"]))


def write(what, task_id):
    descriptor = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{what} {task_id} {os.getpid()} {time.monotonic()}\n".encode())
    finally:
        os.close(descriptor)


def _work(self, seconds=0.0, until=None):
    write("start", self.request.id)
    if until is not None:
        while not Path(until).exists():
            time.sleep(0.01)
    elif seconds:
        time.sleep(seconds)
    write("end", self.request.id)
    return self.request.id


@app.task(bind=True, name="ledger.work")
def work(self, seconds=0.0, until=None):
    """Start, take `seconds` (or wait for the file `until`), end."""
    return _work(self, seconds, until)


@app.task(bind=True, name="ledger.early", acks_late=False)
def early(self, seconds=0.0, until=None):
    """The same, acknowledged at its start."""
    return _work(self, seconds, until)


@app.task(bind=True, name="ledger.limited", time_limit=3)
def limited(self, seconds):
    """The same, killed after three seconds."""
    return _work(self, seconds)


@app.task(bind=True, name="ledger.calls", soft_time_limit=2)
def calls(self, until):
    """Wait for the file, then send a task; the soft limit may end the wait for the broker."""
    write("start", self.request.id)
    while not Path(until).exists():
        time.sleep(0.01)
    try:
        work.delay()
    except SoftTimeLimitExceeded:
        write("end", self.request.id)


@app.task(name="ledger.behind")
def behind(count):
    """Leave a thread behind that sends tasks one after another."""
    threading.Thread(target=lambda: [work.delay() for _ in range(count)]).start()


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
