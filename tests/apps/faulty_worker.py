"""A worker that kills itself at one step of a task's life: FAULT says which. Otherwise it is the real one.

claimed: the broker has said that the message is ours. handed over: the pool has it, and the loop comes to
the broker again. result written: the result store has confirmed. before ack, after ack: just before and
just after the turn that settles the message.
"""

import os
import signal
import sys

from muster.cli.main import main
from muster.transports.base import Verdict
from muster.worker import service

FAULT = os.environ["FAULT"]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class FaultyTransport:
    """The real transport, but for one moment."""

    def __init__(self, real):
        self._real = real
        self._delivered = False

    def __getattr__(self, name):
        return getattr(self._real, name)

    def turn(self, turn):
        acks = any(settlement.verdict is Verdict.ACK for settlement in turn.settle)
        if (FAULT == "before ack" and acks) or (FAULT == "handed over" and self._delivered):
            die()
        turned = self._real.turn(turn)
        if (FAULT == "after ack" and acks) or (FAULT == "claimed" and turned.deliveries):
            die()
        self._delivered = bool(turned.deliveries)
        return turned

    def tick(self, tick):
        if FAULT == "handed over" and self._delivered:
            die()
        return self._real.tick(tick)


class FaultyResults:
    """The real store, but for one moment."""

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)

    def store(self, results):
        self._real.store(results)
        if FAULT == "result written":
            die()


real_run, real_connect = service.run, service.connect


def connect(options):
    transport, results = real_connect(options)
    return FaultyTransport(transport), None if results is None else FaultyResults(results)


service.run = lambda options: real_run(options, connect=connect)
sys.argv[0] = "muster"
main()
