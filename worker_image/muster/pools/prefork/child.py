"""A child: runs one job after another, in its main thread. Forked from the template; knows no broker.

Its jobs come through one pair of sockets, which only the main thread reads, and only when the last job is
done: every other job can still be taken back by the parent. What it publishes goes through the parent, so
that a worker has few connections whatever its size, and over a pair of its own: a thread that waits for the
parent's answer can never come upon a job.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from muster.core.effects import Publication
from muster.errors import BrokerUnavailable
from muster.exceptions import SoftTimeLimitExceeded
from muster.pools.base import Job, Loaded, Started
from muster.pools.frames import Reader, send
from muster.pools.page import Page

JOB, PROBE = b"J", b"?"
"""To the child. A probe asks whether it runs at all; it is read in its turn, like a job."""
OUTCOME, ALIVE, STARTED = b"O", b"A", b"S"
"""From the child."""


class Request(msgspec.Struct, frozen=True, array_like=True):
    """A thread of the child asks to publish, and waits."""

    number: int
    publications: Sequence[Publication]


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The parent's answer to the request of that number; `error` is empty when it is published."""

    number: int
    error: str


_decode_job = msgspec.msgpack.Decoder(Job).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_encode = msgspec.msgpack.Encoder().encode


class _SoftLimit:
    """Raises SoftTimeLimitExceeded in the main thread: the parent signals, the clock confirms."""

    def __init__(self) -> None:
        self.deadline = 0.0
        signal.signal(signal.SIGUSR1, self._handle)

    def _handle(self, _signal: int, _frame: Any) -> None:
        # the signal may have been meant for the job before: the clock decides
        if self.deadline and time.monotonic() >= self.deadline - 0.01:
            self.deadline = 0.0
            raise SoftTimeLimitExceeded


class Child:
    """The child's loop over its end of the jobs' sockets, and its way to publish over that of the others."""

    def __init__(self, end: socket.socket, asks: socket.socket, page: Page, loaded: Loaded) -> None:
        self._end = end
        self._asks = asks
        self._answers = Reader(asks)
        self._page = page
        self._execute = loaded.execute
        self._publishing = threading.Lock()
        self._request = 0
        self._soft = _SoftLimit()
        loaded.enter(self.publish, self.started)

    def run(self) -> None:
        """Run jobs until the parent hangs up."""
        receive, page, execute = Reader(self._end).receive, self._page, self._execute
        while (received := receive()) is not None:
            frame = received[0]
            if frame == PROBE:
                send(self._end, ALIVE)
                continue
            job = _decode_job(frame[1:])
            page.begin(job.number)
            try:
                if job.soft_limit:
                    self._soft.deadline = time.monotonic() + job.soft_limit
                outcome = execute(job)
                self._soft.deadline = 0.0
            except SoftTimeLimitExceeded as error:  # it came while the task's own code was not running
                outcome = execute.interrupted(job, error)
            # the outcome goes first: killed between the two, the job is known to be done
            send(self._end, OUTCOME + _encode(outcome))
            page.end()

    def started(self, event: Started) -> None:
        """Tell the parent that a run has begun."""
        send(self._end, STARTED + _encode(event))

    def publish(self, publications: Sequence[Publication]) -> None:
        """Publish through the parent and wait for its answer, in any thread. Raises BrokerUnavailable.

        A soft limit may end the wait. The answer then comes all the same, and the next wait passes over it.
        """
        with self._publishing:
            self._request += 1
            send(self._asks, _encode(Request(self._request, publications)))
            while True:
                received = self._answers.receive()
                if received is None:
                    os._exit(1)  # the parent is gone, and with it the reason for this process
                answer = _decode_answer(received[0])
                if answer.number == self._request:
                    break
        if answer.error:
            raise BrokerUnavailable(answer.error)
