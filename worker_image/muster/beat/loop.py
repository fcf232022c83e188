"""Beat's loop: leads or stands by, takes in what changed, and carries out what the agenda says.

`service` makes it and runs it; the agenda decides, the store carries out, and what became of each step goes
back into the agenda. The loop remembers nothing that it could not read again from the broker, and after an
outage it does so: then nothing is lost and nothing sent twice, whatever the broker kept.

One thread does everything. If it stands still for longer than the lease another beat takes over, and what
this one then still tries is refused by the broker.
"""

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Final, TypeAlias, TypeVar

from muster.app.publishing import Draft
from muster.beat.compose import CannotCompose, Compose
from muster.beat.plan import Agenda, Send, Step
from muster.beat.tally import Tally
from muster.beat.unfinished import NoResults, Runs
from muster.core.outage import Outage, after_failure, lasted, sentence
from muster.core.schedule import ScheduleError
from muster.errors import BrokerRefused, BrokerUnavailable
from muster.transports.schedules.base import (
    Advance,
    Changed,
    Done,
    NotLeader,
    Outcome,
    Refused,
    ScheduleStore,
    Superseded,
    Term,
)
from muster.wire.schedule import RunRecord

logger = logging.getLogger("muster.beat")

AT_ONCE: Final = 200
"""Steps a transaction: a long one keeps the broker from its other work."""

RESEND: Final = timedelta(seconds=5)
"""When a message that its queue did not take is tried again."""

RECOMPOSE: Final = timedelta(seconds=60)
"""When a message that could not be made is tried again: what it depends on may have changed."""

LONGEST_PAUSE_SECONDS: Final = 2.0
"""Before the broker is tried again: due times wait for it."""

_Item = TypeVar("_Item")
Prepare: TypeAlias = Callable[[ScheduleStore, datetime], None]


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """What the loop must know."""

    scope: str
    holder: str
    """Names this beat in the election; no other one has the name."""
    lease_seconds: float = 9.0
    renew_seconds: float = 3.0
    check_seconds: float = 0.5
    """How often it looks for changed entries."""
    standby_seconds: float = 1.0
    """How often it looks whether nobody leads any more."""
    retry_on_startup: bool = True
    """False: a broker that is away at the start ends beat."""


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A step, its message if it has one, and what the broker is asked to do."""

    step: Step
    draft: Draft | None
    advance: Advance
    missed: int


class BeatLoop:
    """One beat.

    `prepare` is called when it begins to lead, before entries are read, and `published` for each message that
    the broker has. `clock` gives Unix seconds, `monotonic` seconds that never jump.
    """

    def __init__(
        self,
        settings: LoopSettings,
        *,
        store: ScheduleStore,
        compose: Compose,
        published: Callable[[Draft], None] = lambda _: None,
        runs: Runs | None = None,
        prepare: Prepare | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._store = store
        self._compose = compose
        self._published = published
        self._runs = runs or NoResults()
        self._prepare = prepare
        self._clock = clock
        self._monotonic = monotonic
        self.tally = Tally()
        self.connected = False
        self.draining = False
        self.last_pass = monotonic()
        self._told: SimpleQueue[None] = SimpleQueue()  # a signal handler may put into it at any moment
        self._was_connected = False
        self._away: Outage | None = None
        self._term: Term | None = None
        self._forget()

    def _forget(self) -> None:
        """Remember nothing of the broker."""
        self._term = None
        self._agenda = Agenda()
        self._revision = 0
        self._revisions: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self._renew_at = self._check_at = self._monotonic()
        self.tally.leads = False

    # -- running

    def run(self) -> None:
        """Run until `leave`. Raises BrokerRefused or BrokerUnavailable at a start that must not wait."""
        while not self.draining:
            try:
                pause = self.step()
                self._recovered()
            except BrokerUnavailable as error:
                pause = self._outage(error)
            self.last_pass = self._monotonic()
            self._wait(pause)
        self._release()

    def leave(self) -> None:
        """End `run`, and let another beat lead at once. Callable from a signal handler."""
        self.draining = True
        self._told.put(None)

    def _wait(self, seconds: float) -> None:
        if seconds > 0 and not self.draining:
            try:
                self._told.get(timeout=seconds)
            except Empty:
                return

    def _release(self) -> None:
        if self._term is None:
            return
        try:
            self._store.release(self._term)
            logger.info("scope %s: another beat may lead", self._settings.scope)
        except BrokerUnavailable as error:
            logger.warning("%s; another beat leads once the lease is over", error)
        self._forget()

    def _recovered(self) -> None:
        if self._away is not None:
            logger.info("the broker answers again, after %s", lasted(self._monotonic() - self._away.since))
        self._away = None
        self.connected = self._was_connected = True

    def _outage(self, error: BrokerUnavailable) -> float:
        refused = isinstance(error, BrokerRefused)
        if not self._was_connected and (refused or not self._settings.retry_on_startup):
            raise error
        now = self._monotonic()
        self._away, warns = after_failure(self._away, now, random.random())
        if warns:
            logger.warning("%s", sentence(error, self._away, now, meanwhile="due times wait for it"))
        self.connected = False
        self._forget()
        return min(LONGEST_PAUSE_SECONDS, self._away.retry_at - now)

    def step(self) -> float:
        """Do all that is to be done now; return for how many seconds there is nothing more."""
        if self._term is None:
            found = self._store.acquire(self._settings.holder, self._settings.lease_seconds)
            if not isinstance(found, Term):
                return min(self._settings.standby_seconds, found.seconds)
            self._begin(found)
        if not self._renewed():
            return 0.0
        self._take_in()
        now = self._now()
        asked = {uid: self._agenda.record(uid) for uid in self._agenda.asks(now)}
        running = self._runs.unfinished(asked, now) if asked else {}
        self._warn_of_unknown(running)
        wake = self._agenda.wake(now, running)
        self._carry_out(wake.steps)
        next_at = min(self._check_at, self._renew_at) - self._monotonic()
        wake_at = self._agenda.wake_at
        if wake_at is not None:
            next_at = min(next_at, (wake_at - self._now()).total_seconds())
        return max(0.0, next_at)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    # -- leading

    def _begin(self, term: Term) -> None:
        self._forget()
        self._term = term
        self._renew_at = self._monotonic() + self._settings.renew_seconds
        if self._prepare is not None:
            self._prepare(self._store, self._now())
        self.tally.leads = True
        logger.info("scope %s: this beat leads, term %d", self._settings.scope, term.number)

    def _renewed(self) -> bool:
        """Renew the lease if it is time; return whether we lead."""
        if self._term is None:
            return False
        if self._monotonic() < self._renew_at:
            return True
        if self._store.renew(self._term, self._settings.lease_seconds):
            self._renew_at = self._monotonic() + self._settings.renew_seconds
            return True
        self._lose()
        return False

    def _lose(self) -> None:
        logger.warning("scope %s: another beat leads now, this one stands by", self._settings.scope)
        self._forget()

    # -- entries

    def _take_in(self) -> None:
        """Take in what has changed on the broker since the last look."""
        if self._monotonic() < self._check_at:
            return
        self._check_at = self._monotonic() + self._settings.check_seconds
        changes = self._store.changes(self._revision, self._revisions)
        if changes.revision == self._revision:
            return
        for uid in changes.removed:
            self._drop(uid)
        for uid, wrong in changes.malformed.items():
            self._refuse(uid, f"schedule {uid} cannot be read: {wrong}")
        records = self._store.runs([change.entry.uid for change in changes.put])
        notes = []
        for change in changes.put:
            entry = change.entry
            before = records.get(entry.uid, RunRecord())
            try:
                record = self._agenda.put(entry, before)
            except ScheduleError as error:
                self._refuse(entry.uid, str(error))
                continue
            self._refused.pop(entry.uid, None)
            self._revisions[entry.uid] = change.revision
            if record != before:  # the next due time is there for people before it comes
                mark = record.settled_at
                notes.append(Advance(uid=entry.uid, revision=change.revision, after=mark, record=record))
        for batch in _batches(notes):
            if not self._renewed() or self._term is None:
                return
            self._store.advance(self._term, batch)
        self._revision = changes.revision
        self.tally.schedules, self.tally.refused = len(self._agenda), len(self._refused)
        logger.info(
            "scope %s: %d schedules, %d of them new or changed, %d removed",
            self._settings.scope,
            len(self._agenda),
            len(changes.put),
            len(changes.removed),
        )

    def _drop(self, uid: str) -> None:
        self._agenda.drop(uid)
        self._revisions.pop(uid, None)
        self._refused.pop(uid, None)

    def _refuse(self, uid: str, text: str) -> None:
        """Tick nothing by an entry that cannot be scheduled, nor by what stood there before it."""
        self._agenda.drop(uid)
        self._revisions[uid] = 0
        if self._refused.get(uid) != text:
            logger.error("%s; nothing is sent for it", text)
        self._refused[uid] = text

    def _warn_of_unknown(self, running: Mapping[str, object]) -> None:
        for uid, answer in running.items():
            entry = self._agenda.entry(uid)
            if not isinstance(answer, bool) and entry is not None:
                logger.warning(
                    "%s: whether its last run is finished is unknown, so it waits: %s",
                    entry.name,
                    getattr(answer, "reason", answer),
                )

    # -- ticks

    def _carry_out(self, steps: Sequence[Step]) -> None:
        before: dict[str, RunRecord] = {}
        ended: set[str] = set()  # schedules of which a step was not carried out: the later ones must not be
        for batch in _batches(steps):
            if self.draining or not self._renewed() or self._term is None:
                return  # what is left is the next leader's
            prepared = [one for step in batch if (one := self._prepared(step, before, ended)) is not None]
            outcomes = self._store.advance(self._term, [one.advance for one in prepared])
            for one, outcome in zip(prepared, outcomes, strict=True):
                if isinstance(outcome, NotLeader):
                    self._lose()
                    return
                self._report(one, outcome, ended)
            self.last_pass = self._monotonic()

    def _prepared(self, step: Step, before: dict[str, RunRecord], ended: set[str]) -> _Prepared | None:
        uid = step.entry.uid
        if uid in ended:
            return None
        draft = None
        if isinstance(step, Send):
            try:
                draft = self._compose(step.entry, step.due_at, step.task_id)
            except CannotCompose as error:
                logger.error("%s", error)  # noqa: TRY400 - the sentence says it all
                self._agenda.failed(step, self._now() + RECOMPOSE)
                ended.add(uid)
                return None
        known = before.get(uid) or self._agenda.record(uid)
        before[uid] = step.record
        return _Prepared(
            step=step,
            draft=draft,
            advance=Advance(
                uid=uid,
                revision=self._revisions[uid],
                after=known.settled_at,
                record=step.record,
                publication=None if draft is None else draft.publication,
            ),
            missed=step.record.missed - known.missed,
        )

    def _report(self, one: _Prepared, outcome: Outcome, ended: set[str]) -> None:
        step, uid = one.step, one.step.entry.uid
        match outcome:
            case Done():
                if uid not in ended:
                    self._agenda.done(step)
                self._tell(one)
            case Superseded(record):
                logger.info("%s: another beat was there first", step.entry.name)
                self._agenda.superseded(step, record)
                ended.add(uid)
            case Refused(reason):
                if uid not in ended:
                    logger.warning("%s: not sent: %s; it is tried again", step.entry.name, reason)
                    self._agenda.failed(step, self._now() + RESEND)
                ended.add(uid)
            case Changed():
                self._check_at = self._monotonic()
                self._agenda.failed(step, self._now() + timedelta(seconds=self._settings.check_seconds))
                ended.add(uid)

    def _tell(self, one: _Prepared) -> None:
        """Count and log a step that the broker has carried out, and tell the application's receivers."""
        entry, now = one.step.entry, self._now()
        queue = entry.queue or ""
        if one.draft is not None and isinstance(one.step, Send):
            lag_seconds = (now - one.step.due_at).total_seconds()
            queue = one.draft.publication.queue
            self.tally.ticked(queue, entry.task, lag_seconds)
            logger.info(
                "%s: %s[%s] to %s, due %s, %.0f ms ago (%s)",
                entry.name,
                entry.task,
                one.step.task_id,
                queue,
                one.step.due_at.isoformat(timespec="milliseconds"),
                lag_seconds * 1000,
                one.step.reason,
            )
            self._published(one.draft)
        if one.missed:
            self.tally.missed[queue, entry.task] += one.missed
            logger.warning("%s: %d due times are missed (%s)", entry.name, one.missed, one.step.reason)


def _batches(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, AT_ONCE)):
        yield batch
