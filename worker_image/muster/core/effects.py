"""What running a task asks of the world, as values: messages to publish, results to store.

The executor makes them, pools carry them to the worker's loop, transports and results carry them out.
"""

import msgspec


class Publication(msgspec.Struct, frozen=True, array_like=True):
    """One message to be put into a queue: at once, or at `eta` (Unix seconds) when that is not 0."""

    queue: str
    raw: bytes
    priority: int = 0
    eta: float = 0.0


class StoredResult(msgspec.Struct, frozen=True, array_like=True):
    """A result document for the result store. `retries` orders runs; `expires_seconds` 0 means for ever.

    `reply_to` is the queue that its sender has named, for results that are sent and not stored.
    """

    task_id: str
    document: bytes
    status: str
    retries: int
    expires_seconds: int
    reply_to: str = ""
