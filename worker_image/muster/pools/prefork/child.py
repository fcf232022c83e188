"""A child: runs one job after another, in its main thread. Forked from the template; knows no broker.

It reads a job only when the last one is done, so every other job of its own can still be taken back by the
parent. What it publishes goes through the parent, so that a worker has few connections whatever its size.
"""

import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from muster.core.effects import Publication
from muster.errors import BrokerUnavailable
from muster.exceptions import SoftTimeLimitExceeded
from muster.pools.base import Job, Loaded
from muster.pools.prefork.frames import Reader, send
from muster.pools.prefork.page import Page

JOB, REPLY, OUTCOME, PUBLISH = b"J", b"R", b"O", b"P"

_decode_job = msgspec.msgpack.Decoder(Job).decode
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
    """The child's loop over its end of the socket pair."""

    def __init__(self, end: socket.socket, page: Page, loaded: Loaded) -> None:
        self._end = end
        self._reader = Reader(end)
        self._page = page
        self._execute = loaded.execute
        self._publishing = threading.Lock()
        self._early: deque[bytes] = deque()
        """Jobs that were on their way already when a task asked to publish."""
        self._soft = _SoftLimit()
        loaded.enter(self.publish)

    def run(self) -> None:
        """Run jobs until the parent hangs up."""
        receive, page, execute = self._reader.receive, self._page, self._execute
        while True:
            if self._early:
                frame = self._early.popleft()
            else:
                received = receive()
                if received is None:
                    return
                frame = received[0]
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

    def publish(self, publications: Sequence[Publication]) -> None:
        """Publish through the parent and wait for its answer. Raises BrokerUnavailable."""
        with self._publishing:
            send(self._end, PUBLISH + _encode(publications))
            while True:
                received = self._reader.receive()
                if received is None:
                    os._exit(1)  # the parent is gone, and with it the reason for this process
                frame = received[0]
                if frame[:1] == REPLY:
                    break
                self._early.append(frame)
        error = frame[1:].decode()
        if error:
            raise BrokerUnavailable(error)
