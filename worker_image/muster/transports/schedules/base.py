"""The port to beat's place on a broker: who may tick, what is to be ticked, and the tick itself.

Callers: beat for all of it; the operator, `muster dev` and the command line write entries and read runs.
Implementations: `redis`, `sqlite`, `amqp`, `memory`, made by `muster.transports.connect.connect_schedules`;
one contract suite (`tests/contract/test_schedule_store.py`) runs on each. A store knows one *scope*: a set of
schedules with one election, such as those of a namespace. It knows no time table and no clock of this
machine: the broker judges when a lease is over, by its clock or, on RabbitMQ, by who is connected.

**Once.** `advance` is the only way to a tick, and one transaction on the broker: the term is the leader's,
the entry is the one that beat has read, the mark is still where beat has seen it; then the message is in its
queue and the mark moves on. Whichever beat is stopped, killed or late at whatever point, a due time is sent
once, because the second who tries finds that the mark has moved. RabbitMQ has no such transaction; what
`amqp` does instead, and what is left, stands there.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeAlias

import msgspec

from muster.core.effects import Publication
from muster.wire.schedule import RunRecord, ScheduleEntry


class Term(msgspec.Struct, frozen=True):
    """The time that one beat leads, from its election on. `number` is the fencing token: it only rises."""

    holder: str
    number: int


class Leader(msgspec.Struct, frozen=True):
    """Who leads now, and for how many more seconds without renewal."""

    holder: str
    seconds: float


class Change(msgspec.Struct, frozen=True):
    """An entry that is new or changed. `revision` names this form of it."""

    revision: int
    entry: ScheduleEntry


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a scope's entries since a revision."""

    revision: int
    """To ask with the next time."""
    put: Sequence[Change] = ()
    removed: Sequence[str] = ()
    """Of the known uids, those that stand there no more."""
    malformed: Mapping[str, str] = {}
    """uid → what is wrong with an entry that cannot be read."""


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """One step of one schedule: from the mark `after` to that of `record`, sending `publication` on the way.

    With equal marks only the record changes. A mark of None is that of a schedule that never ran.
    """

    uid: str
    revision: int
    """Of the entry that it was decided by."""
    after: datetime | None
    record: RunRecord
    publication: Publication | None = None


class Done(msgspec.Struct, frozen=True):
    """The message is in its queue and the record is written."""


class Superseded(msgspec.Struct, frozen=True):
    """Nothing was done: the mark is elsewhere, and `record` stands there."""

    record: RunRecord


class Changed(msgspec.Struct, frozen=True):
    """Nothing was done: the entry has changed or is gone."""


class Refused(msgspec.Struct, frozen=True):
    """Nothing was done: its queue does not take the message now. `reason` names the queue and the remedy."""

    reason: str


class NotLeader(msgspec.Struct, frozen=True):
    """Nothing was done: another one leads, or nobody."""


Outcome: TypeAlias = Done | Superseded | Changed | Refused | NotLeader


class Election(Protocol):
    """Who of several beats may tick. Every method raises BrokerUnavailable."""

    def acquire(self, holder: str, lease_seconds: float) -> Term | Leader:
        """Return a new term, or who leads instead.

        A holder that leads already gets a new term too, and its old one ends: a beat that was started
        again under the same name need not wait for its own lease. (Where a lease is a connection, that of its
        earlier life has ended with it.)
        """

    def renew(self, term: Term, lease_seconds: float) -> bool:
        """Begin the lease anew. False: the term is over. A lease that ran out unnoticed is renewed.

        To be called, or `changes`, about once a second: on RabbitMQ the heartbeat goes out then.
        """

    def release(self, term: Term) -> None:
        """End the term, so that another beat need not wait for the lease. One that is over is fine."""

    def leader(self) -> Leader | None:
        """Return who leads; None: nobody."""


class ScheduleSet(Protocol):
    """The entries of the scope, for those who write them. Every method raises BrokerUnavailable."""

    def put(self, entries: Sequence[ScheduleEntry]) -> None:
        """Write entries under their uids; equal ones change nothing.

        They are written as they are: pass them through `muster.core.schedule.succeeding` before.
        """

    def remove(self, uids: Collection[str]) -> None:
        """Remove entries and their run records; unknown uids are fine. Nothing is ticked any more then."""

    def entries(self) -> dict[str, ScheduleEntry | None]:
        """Return all entries by uid; None for one that cannot be read."""

    def runs(self, uids: Collection[str]) -> dict[str, RunRecord]:
        """Return the run records of those uids that have one."""


class Ticking(Protocol):
    """What only beat does. Every method raises BrokerUnavailable."""

    def changes(self, since: int, known: Collection[str]) -> Changes:
        """Return what has changed since the revision `since` (0: everything) for who knows `known`.

        When nothing has, which is nearly always, this costs one small read. A broker that has lost its
        memory tells everything again.
        """

    def advance(self, term: Term, advances: Sequence[Advance]) -> Sequence[Outcome]:
        """Carry out the steps in their order, in one transaction; return what became of each.

        After a step that is Refused the later ones of its schedule are, too.
        """


class ScheduleStore(Election, ScheduleSet, Ticking, Protocol):
    """All of one scope on one connection. Not for several threads."""

    def close(self) -> None:
        """Give up the connection."""
