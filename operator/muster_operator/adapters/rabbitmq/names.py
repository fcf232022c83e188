"""What leads dead letters to their queues on RabbitMQ, for both adapters.

A queue gives its dead letters to `DEAD` with the routing key that they came by, which for most is the
queue's name, with what Celery's delayed delivery has put before it. What came through an exchange of
somebody's has another key: it goes on to `BY_QUEUE`, which looks at the queue where it died first. What
neither knows ends in one queue for all, so that nothing is lost.
"""

from typing import Final

from muster_operator.model.rabbitmq import DEAD_LETTERS, UNCLAIMED

DEAD: Final = DEAD_LETTERS
"""Topic exchange."""
BY_QUEUE: Final = "muster.dead.queue"
"""Headers exchange."""
OTHER: Final = UNCLAIMED
"""Fanout exchange, and the queue behind it."""
FIRST_DEATH: Final = "x-first-death-queue"
"""The broker's own header."""
