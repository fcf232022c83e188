"""What a worker's loop is told at its start. `service` makes it of the options; nobody changes it."""

from collections.abc import Mapping, Sequence

import msgspec

from muster.core.autoscale import Bounds
from muster.wire.message import MAX_BYTES


class LoopSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the loop is told."""

    worker: str
    pool_name: str
    pool_type: str
    hostname: str
    queues: Sequence[str]
    broker: str = ""
    """Its URL without a password, to be shown."""
    lease_seconds: float = 30.0
    delivery_limits: Mapping[str, int] = {}
    delivery_limit: int = 5
    """For a queue that `delivery_limits` does not name; 0: no limit."""
    result_expires_seconds: int = 86400
    drain_timeout_seconds: float = 600.0
    max_message_bytes: int = MAX_BYTES
    max_depth: int = 0
    """How many messages a slot may hold at most; 0: what `core.prefetch` allows."""
    autoscale: Bounds | None = None
    """None: the pool stays as large as it was started."""
    retry_on_startup: bool = True
    """False: a broker that is away at the start ends the worker."""
    effective: Mapping[str, str] = {}
    """Settings as text, for the report."""
