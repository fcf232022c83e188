"""What the loop asks of the world, in small protocols: the cluster, brokers, leadership.

`adapters` implement them; `loop` calls them. Every method may raise one of `errors`. Readings never raise:
what cannot be read is an Unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from muster.wire.schedule import RunRecord, ScheduleEntry
from muster_operator.model.actions import Action
from muster_operator.model.rabbitmq import VirtualHost
from muster_operator.model.readings import Reading
from muster_operator.model.world import (
    BrokerFacts,
    QueueReading,
    SecretView,
    WorkerView,
)


class Cluster(Protocol):
    """Writes to the API server."""

    async def carry_out(self, action: Action) -> None:
        """Do one action that concerns the cluster; done when it returns."""


@dataclass(frozen=True, kw_only=True)
class QueueAsk:
    """A queue to be read: its name on the broker and that of its dead-letter place."""

    queue: str
    dead_letter: str


@dataclass(frozen=True, kw_only=True)
class ScopeView:
    """What stands in one broker-side set of schedules."""

    entries: Mapping[str, ScheduleEntry | None] = field(default_factory=dict)
    runs: Mapping[str, RunRecord] = field(default_factory=dict)
    beat_running: bool = False


@dataclass(frozen=True, kw_only=True)
class BrokerView:
    """What was read of a broker last; Unknown since the first failure in a row."""

    facts: Reading[BrokerFacts]
    queues: Mapping[str, Reading[QueueReading]] = field(default_factory=dict)
    reports: Mapping[str, Reading[WorkerView]] = field(default_factory=dict)
    """By worker, which is the pod's UID."""
    scopes: Mapping[str, Reading[ScopeView]] = field(default_factory=dict)
    """By namespace."""
    extra_runs: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    virtual_host: Reading[VirtualHost] | None = None
    """None on a broker that has none."""


class Secrets(Protocol):
    """Secrets by name: the API server's, or those of `muster dev`'s files."""

    async def secret(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return a Secret as the API server holds it; None when there is none."""


class Brokers(Protocol):
    """All brokers, each read by one poller of its own however many pools use it."""

    def secret(self, namespace: str, name: str) -> Reading[SecretView]:
        """Return what is known of a Secret that names a broker or result store."""

    def view(self, namespace: str, secret: str) -> BrokerView:
        """Return what was read last of the broker that a Secret names."""

    def endpoint(self, namespace: str, secret: str) -> str:
        """Return what tells brokers apart: equal for Secrets that name one; empty when it cannot be read."""

    async def carry_out(self, action: Action) -> None:
        """Do one action that concerns a broker; done when it returns."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What shall be read of one broker: all that the resources of the cluster ask for."""

    queues: Sequence[QueueAsk] = ()
    pools: Sequence[str] = ()
    scopes: Sequence[str] = ()
    more_queues: Sequence[str] = ()
    """On RabbitMQ: names that shall be looked for besides."""


class Leadership(Protocol):
    """Whether this process may write."""

    def leads(self, now: datetime) -> bool:
        """Return whether the lease is ours and not over at `now`."""


class Objects(Protocol):
    """The latest state of every object that the operator watches, as JSON."""

    def get(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        """Return one object."""

    def of(self, kind: str, namespace: str | None = None) -> Sequence[Mapping[str, Any]]:
        """Return all of a kind, of one namespace or of all."""

    def namesakes(self, queue_name: str) -> Sequence[Mapping[str, Any]]:
        """Return the TaskQueues of that queue name, on whatever broker."""
