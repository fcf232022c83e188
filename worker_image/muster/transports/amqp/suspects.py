"""Messages whose last worker was lost while it held them: how often each was started since.

RabbitMQ marks what comes back when a connection ends, and does not say whether it had begun to run. Such a
message is a suspect: it runs alone, and before each start of it one message is put into a queue on the broker
that counts its starts. So whoever takes it next knows how many starts of it ended in a lost worker, and what
lay beside it, begun or not, is not blamed for them. The queue is named by the task's id, and forgotten after
a day. It is a classic queue, on the node that made it: to declare a quorum queue takes seconds while a node
of the cluster is away, which is when there are many suspects. A count that goes with its node begins anew.

A worker's transport calls it, for suspects only. It knows no policy.
"""

import contextlib
import hashlib
from typing import Final

import pika

from muster.transports.amqp.consumer import Pushed
from muster.transports.amqp.line import Line, Parcel, Refusal
from muster.transports.amqp.names import BEGUN, BEGUN_KEPT_MILLISECONDS

_PERSISTENT: Final = pika.BasicProperties(delivery_mode=2)


def count_queue(pushed: Pushed) -> str:
    """Return the name of the queue that counts a message's starts; each retry of a task has its own."""
    headers = pushed.properties.headers or {}
    who = f"{pushed.queue}\n{headers.get('id') or pushed.properties.correlation_id}\n{headers.get('retries')}"
    return BEGUN + hashlib.sha256(who.encode()).hexdigest()[:32]


def starts_so_far(line: Line, pushed: Pushed) -> int:
    """Return how many starts were noted. What cannot be counted is 0: it runs once more rather than never."""
    name = count_queue(pushed)
    arguments = {"x-queue-type": "classic", "x-expires": BEGUN_KEPT_MILLISECONDS}
    try:
        answer = line.ask(
            lambda done: line.channel.queue_declare(name, durable=True, arguments=arguments, callback=done)
        )
    except Refusal:
        return 0
    return int(answer.method.message_count)


def note_start(line: Line, pushed: Pushed, seconds: float) -> None:
    """Note one start more; the broker has it when this returns."""
    with contextlib.suppress(Refusal):
        line.publish([Parcel("", count_queue(pushed), b"", _PERSISTENT)], seconds, patient=False)


def forget(line: Line, pushed: Pushed) -> None:
    """Forget a message's count: it has ended, or its count stands on a copy of it. Nobody waits for that."""
    if line.is_open and not line.blocked:
        line.channel.queue_delete(count_queue(pushed))
        line.flush()
