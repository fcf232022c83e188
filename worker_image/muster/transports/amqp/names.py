"""What Muster itself has in a virtual host of RabbitMQ; every name begins with `muster.`.

Transports and observers declare these; the operator's rules keep queues of other names away from them.
"""

from typing import Final

REPORTS: Final = "muster.reports"
"""Fanout exchange: workers' reports, with the pool as routing key."""
CONTROL: Final = "muster.control"
"""Direct exchange: control messages, with the worker as routing key."""
REVOKED: Final = "muster.revoked"
"""Stream of the ids of tasks that shall not run: read by every worker from its beginning."""
REVOKED_KEPT: Final = "7D"
"""As long as on the other brokers."""
REVOKED_SEGMENT_BYTES: Final = 1_000_000
"""What is too old is removed by whole segments."""
BEGUN: Final = "muster.begun."
"""Prefix of the queues that count how often a suspect was started; see `suspects`."""
BEGUN_KEPT_MILLISECONDS: Final = 24 * 3600 * 1000
"""A count that nobody asks for is forgotten then."""

PACE: Final = "muster.pace."
"""Prefix of the queues that say how often a task may start in all workers together; see `paces`."""
PACE_LOCK: Final = "muster.pace_lock."
"""Prefix of the exclusive queues of who makes such a queue."""
PACE_KEPT_MILLISECONDS: Final = 7 * 24 * 3600 * 1000
"""A pace that nobody asks for is forgotten then: longer than any allowance takes to fill up."""

KEPT: Final = "muster.kept."
"""Prefix of the queues in which a worker keeps what it holds for long; see `kept`."""

REASON_HEADER: Final = "x-muster-reason"
TEXT_HEADER: Final = "x-muster-text"
QUEUE_HEADER: Final = "x-muster-queue"
"""Why a dead letter is one, in a word and in a sentence, and which queue it comes from."""
SUSPECT_HEADER: Final = "x-muster-suspect"
"""On the copy of a suspect that was given back."""
KEPT_HEADER: Final = "x-muster-kept"
"""On the copy by which a worker goes on holding a message: names it."""
