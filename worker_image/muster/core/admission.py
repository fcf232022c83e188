"""What becomes of a message that has just been claimed: the first decision on it.

Called by the worker's loop for each delivery. It sees the message's headers only, never the body.
"""

from collections.abc import Container

import msgspec

from muster.core.policy import Policy
from muster.wire.message import Peek


class Run(msgspec.Struct, frozen=True):
    """Run it. `alone`: nothing else in its process, since an earlier run may have killed its worker."""

    policy: Policy
    alone: bool = False


class Defer(msgspec.Struct, frozen=True):
    """Let it wait on the broker until `eta`, Unix seconds."""

    eta: float


class Discard(msgspec.Struct, frozen=True):
    """It is not to be run any more: acknowledge it, result REVOKED. `reason`: Expired or Revoked."""

    reason: str
    text: str


class Bury(msgspec.Struct, frozen=True):
    """It cannot be run: to the dead-letter place, result FAILURE of exception `error`."""

    reason: str
    text: str
    error: str


Admission = Run | Defer | Discard | Bury


def admit(
    message: Peek,
    *,
    policy: Policy | None,
    now: float,
    revoked: Container[str],
    delivery_limit: int,
) -> Admission:
    """Decide on a message. `policy` is None for a task that the worker does not know; `now` Unix seconds.

    `delivery_limit` is how many lost workers one message may cost before it is buried.
    """
    if message.content_type != "application/json":
        return Bury(
            "UnknownContentType",
            f"content type {message.content_type!r} is not accepted: publish with serializer='json'",
            "ContentDisallowed",
        )
    if policy is None:
        return Bury(
            "NotRegistered",
            f"no task named {message.task!r} in this worker: is the module imported that defines it?",
            "NotRegistered",
        )
    if message.id in revoked:
        return Discard("Revoked", "revoked")
    if message.expires is not None and now >= message.expires:
        return Discard("Expired", f"expired {now - message.expires:.1f} s before a worker took it")
    if message.eta is not None and message.eta > now:
        return Defer(message.eta)
    if message.losses >= delivery_limit > 0:
        return Bury(
            "DeliveryLimitExceeded",
            f"{message.losses} workers were lost while it may have run (the last: {message.cause}); "
            f"the limit is {delivery_limit}",
            "WorkerLostError",
        )
    return Run(policy, alone=message.losses > 0)


def limits(message: Peek, policy: Policy) -> tuple[float, float]:
    """Return (soft, hard) in seconds, 0 for none: the call's own limits go before the policy's."""
    soft = policy.soft_limit if message.soft_limit is None else message.soft_limit
    hard = policy.hard_limit if message.hard_limit is None else message.hard_limit
    return soft, hard
