"""What a worker is told over RabbitMQ: control messages to it, and the ids of tasks that shall not run.

A worker's transport has one on the connection that it consumes by, on a channel of its own, so that a server
which refuses one of these queues takes no task away. Control messages come into a queue of this connection
only: what is sent while it is broken is lost, and whoever sent it says it again.
"""

import logging
import time
from typing import Any, Final

import msgspec

from muster.transports.amqp.line import ACCESS_REFUSED, Line, Refusal, SideChannel
from muster.transports.amqp.names import CONTROL, REVOKED, REVOKED_KEPT, REVOKED_SEGMENT_BYTES

logger = logging.getLogger("muster.transport")

AGAIN_SECONDS: Final = 10.0
"""How long a refusal is left alone."""
_AT_ONCE: Final = 200
"""Entries of the stream on their way at once."""

decode_revocation = msgspec.json.Decoder(tuple[float, list[str]]).decode
"""(when, Unix seconds; ids)"""

STREAM: Final = {
    "x-queue-type": "stream",
    "x-max-age": REVOKED_KEPT,
    "x-stream-max-segment-size-bytes": REVOKED_SEGMENT_BYTES,
}


class Mailbox:
    """See the module. Not thread-safe."""

    def __init__(self, line: Line, worker: str) -> None:
        self._line = line
        self._worker = worker
        self._side: SideChannel | None = None
        self._again_at = 0.0
        self._said = ""
        """The refusal that was logged: it is asked for again, and said once."""
        self._next = 0
        """Where in the stream we have not read."""
        self._commands: list[bytes] = []
        self._revoked: list[str] = []

    def commands(self) -> list[bytes]:
        """Return the control messages that have come since the last call."""
        found, self._commands = self._commands, []
        return found

    def revoked(self) -> list[str]:
        """Return the ids that have come since the last call; the first one brings all that are kept."""
        found, self._revoked = self._revoked, []
        return found

    def serve(self) -> None:
        """See to it that we are told. What the server refuses is asked for again, and logged."""
        side = self._side
        if (side is not None and side.is_open) or time.monotonic() < self._again_at:
            return
        self._side = None
        try:
            if side is not None and side.refusal is not None:
                raise side.refusal
            self._open()
        except Refusal as refusal:
            self._side = None
            self._again_at = time.monotonic() + AGAIN_SECONDS
            if self._said == str(refusal):
                return
            self._said = str(refusal)
            remedy = (
                "its user needs the right to configure, write and read muster.*"
                if refusal.code == ACCESS_REFUSED
                else f"it is tried again every {AGAIN_SECONDS:.0f} s"
            )
            logger.warning(
                "control messages and revocations do not reach this worker (%s); %s", refusal, remedy
            )

    def _open(self) -> None:
        self._side = side = self._line.new_channel()
        channel = side.channel
        side.ask(lambda done: channel.exchange_declare(CONTROL, "direct", durable=True, callback=done))
        answer = side.ask(lambda done: channel.queue_declare("", exclusive=True, callback=done))
        own = answer.method.queue
        side.ask(lambda done: channel.queue_bind(own, CONTROL, self._worker, callback=done))
        side.ask(lambda done: channel.basic_consume(own, self._on_command, auto_ack=True, callback=done))
        side.ask(lambda done: channel.queue_declare(REVOKED, durable=True, arguments=STREAM, callback=done))
        side.ask(lambda done: channel.basic_qos(prefetch_count=_AT_ONCE, callback=done))
        # its answer is not waited for: with a node of the cluster away it takes many seconds
        start = {"x-stream-offset": self._next or "first"}
        channel.basic_consume(REVOKED, self._on_revoked, arguments=start)

    def _on_command(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        self._commands.append(body)

    def _on_revoked(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)
        self._next = int((properties.headers or {}).get("x-stream-offset", self._next)) + 1
        try:
            self._revoked += decode_revocation(body)[1]
        except msgspec.DecodeError as error:
            logger.warning("a revocation is not understood and ignored: %s", error)
