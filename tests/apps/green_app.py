"""Tasks for pools of greenlets: written as anybody would, with names imported at the top, and bad neighbours.

`POOL` says which library has to have patched what is imported here. Its resolver asks NAMES (host:port), or,
gevent's being the system's own functions in threads, a function that answers as soon as HUNDRED ask at once.
"""

import ctypes
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from socket import getaddrinfo, socket
from threading import Lock
from time import sleep

import redis

from muster import Muster
from muster.pools.green import natives

app = Muster("green", broker=os.environ["BROKER"], backend=os.environ.get("RESULTS", os.environ["BROKER"]))
HUNDRED = 100
_asking = 0


def _answer_a_hundred(name, *args, **kwargs):
    """Look a name up, in a native thread, when a hundred are to be."""
    global _asking  # noqa: PLW0603 - native threads share it
    if not name.endswith(b".example" if isinstance(name, bytes) else ".example"):
        return _getaddrinfo(name, *args, **kwargs)
    _asking += 1
    while _asking < HUNDRED:
        natives.sleep(0.01)
    return [(2, 1, 6, "", ("192.0.2.1", 80))]


if os.environ["POOL"] == "gevent":
    import _socket

    _getaddrinfo = _socket.getaddrinfo
    _socket.getaddrinfo = _answer_a_hundred
else:
    from eventlet.support import greendns

    host, port = os.environ["NAMES"].split(":")
    greendns.resolver._resolver.nameservers = [host]
    greendns.resolver._resolver.port = int(port)


@app.task(name="g.patched")
def patched():
    """Say where what was imported above comes from."""
    return [each.__module__.split(".")[0] for each in (socket, getaddrinfo, sleep, type(Lock()))]


@app.task(name="g.argv")
def argv():
    return sys.argv


@app.task(name="g.sleep")
def sleeping(seconds):
    sleep(seconds)


@app.task(name="g.wait")
def wait(until):
    """Run until the test's word; not all too curious, since there may be a thousand."""
    while not Path(until).exists():
        sleep(0.5)


@app.task(name="g.fetch")
def fetch(url):
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


@app.task(name="g.lookup")
def lookup(name):
    return getaddrinfo(name, 80)[0][4][0]


@app.task(name="g.run")
def run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@app.task(name="g.pop")
def pop(key):
    with redis.Redis.from_url(os.environ["BROKER"]) as client:
        return client.blpop(key, timeout=60)[1].decode()


@app.task(bind=True, name="g.keep")
def keep(self, seconds, ledger):
    """Keep the hub by a call that nobody has patched."""
    with open(ledger, "a") as file:  # noqa: PTH123
        file.write(f"{self.request.id}\n")
    natives.sleep(seconds)


@app.task(name="g.seize")
def seize(seconds):
    """Keep the interpreter itself, in C."""
    ctypes.PyDLL(None).sleep(seconds)
