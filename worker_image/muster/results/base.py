"""The port to a result store.

Implementations: `redis`, `sqlite`, `memory`; one contract suite (`tests/contract/test_results.py`) runs on
each. `transports.amqp.replies` stores nothing and sends results to who has asked for them: it keeps to the
port for the process that has sent the tasks, and to others a task stays unknown. Documents are
`muster.wire.result`'s. A ready state is never replaced by another run of the same retry; against Celery's own
writers its rule (SUCCESS stays) is all that can hold.
"""

from collections.abc import Sequence
from typing import Protocol

from muster.core.effects import StoredResult


class ResultStore(Protocol):
    """Keeps result documents. Thread-safe. Every method raises BrokerUnavailable when it is out of reach."""

    def store(self, results: Sequence[StoredResult]) -> None:
        """Store documents and tell those who wait for them."""

    def get(self, task_id: str) -> bytes | None:
        """Return a document, or None when there is none (yet, or any more)."""

    def wait(self, task_id: str, timeout_seconds: float | None) -> bytes | None:
        """Return the first document in a ready state, waiting for it; None when the time is over."""

    def forget(self, task_id: str) -> None:
        """Remove a document."""

    def close(self) -> None:
        """Give up the connections."""


class Replies(ResultStore, Protocol):
    """Results that are sent to who has asked for them."""

    @property
    def reply_to(self) -> str:
        """The queue that is to be named in what this process sends."""

    def listen(self) -> None:
        """See that the queue is there, before something is sent."""
