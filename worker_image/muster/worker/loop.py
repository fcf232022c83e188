"""The worker's loop: between one broker and one pool, in one thread that runs no user code.

Each pass collects what the pool has finished, decides (`core`), and has one *turn* with the broker:
settlements, starts and a claim in one round trip. Nothing is handed to the pool before the broker has
confirmed that it is ours, and nothing is given up before its result and its next messages are stored.
When the broker is away, the loop keeps what it has, tasks go on, and everything is settled later. When a
result store of its own is away, that holds for the tasks with results, and all else goes on.
"""

import contextlib
import logging
import os
import random
import selectors
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from muster.core.autoscale import Size, resize, slots_needed
from muster.core.effects import StoredResult
from muster.core.outage import Outage, after_failure, lasted, sentence
from muster.core.policy import Policy
from muster.core.prefetch import depth
from muster.errors import BrokerUnavailable
from muster.pools.base import Job, Lost, Outcome, Pool, Publish, Returned, Started
from muster.results.base import ResultStore
from muster.transports.base import (
    Seen,
    Sending,
    Settlement,
    Tick,
    Transport,
    Turn,
    Verdict,
)
from muster.wire import control
from muster.wire.report import WorkerReport
from muster.wire.report import encode as encode_report
from muster.worker.hands import Hands
from muster.worker.outcomes import Results
from muster.worker.report import is_news, make_report
from muster.worker.settings import LoopSettings
from muster.worker.tally import Tally

logger = logging.getLogger("muster.worker")

TICK_SECONDS: Final = 1.0
SPARE_SECONDS: Final = 15.0
"""After an outage nobody's leases are ended for so long: it may have outlasted them, and not all others are
back yet, who wait ten seconds for an answer and five before they try again."""
RECONCILE_AGAIN_SECONDS: Final = 7.0
"""What a watch has asked before its connection broke may stand on the broker for five seconds: what is
claimed by it unheard is given back then."""
REPORT_SECONDS: Final = 5.0
PUBLISH_PATIENCE_SECONDS: Final = 10.0
"""How long a task that publishes waits for a broker that is away, before it gets an error."""
ETA_SECONDS: Final = 0.01
"""Messages that wait are looked at no more often than this; they may be as late."""
BEHIND_SECONDS: Final = 0.02
"""So soon after a job was handed over the pool looks whether its slot gets on with what it holds."""
MAX_UNSETTLED: Final = 2000
"""Claims stop when the results of so many tasks wait for the result store."""
EXIT_CODES: Final = {"ColdShutdown": 130, "DrainTimeout": 124}
"""Why running tasks were given up → how the process ends."""


class _Asked(msgspec.Struct, frozen=True):
    """A task waits for something to be published."""

    token: int
    """Names the task to the pool."""
    since: float
    sending: Sending


class WorkerLoop:
    """See the module. `results` is None when results are ignored or stored by the transport itself.

    `clock` gives monotonic seconds and `dice` numbers in [0, 1), by which a fleet spreads its calls.
    `end_process` is called with an exit code when tasks are given up that end with this process only.
    """

    def __init__(
        self,
        settings: LoopSettings,
        *,
        transport: Transport,
        pool: Pool,
        policies: Mapping[str, Policy],
        default_policy: Policy,
        results: ResultStore | None,
        stores_results: bool,
        tally: Tally,
        clock: Callable[[], float] = time.monotonic,
        dice: Callable[[], float] = random.random,
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._end_process = end_process
        self._clock = clock
        self._dice = dice
        self._settings = settings
        self._transport = transport
        self._pool = pool
        self._policies = policies
        self._results = results
        self.tally = tally
        self._hands = Hands(
            settings,
            policies=policies,
            results=Results(
                kept=stores_results,
                policies=policies,
                default_policy=default_policy,
                expires_seconds=settings.result_expires_seconds,
            ),
            tally=tally,
            isolated=pool.isolates,
            put_off=self._due_in,
        )
        self._undone = 0
        """How many messages that were put off the transport has yet to bring back."""
        self._settling: list[Settlement] = []
        """What is done and has its result stored: said in each turn until the broker has answered."""
        self._unanswered = 0
        """How many of them, from the first, were said in a turn whose answer got lost."""
        self._asked: list[_Asked] = []
        self._life = uuid.uuid4().hex
        """Makes our tokens different from those of all others."""
        self._next_token = 1
        self._hungry = True
        self._size: Size | None = None
        """The size of a pool with bounds, once it was looked at."""
        self._revoked_after = 0.0

        self._ahead = 0.0
        """The broker's clock minus ours, seconds."""
        self._tick_at = 0.0
        self._renew_at = 0.0
        self._report_at = 0.0
        self._check_at = 0.0
        self._eta_at: float | None = None
        self._ticked_at = 0.0
        self._retry_at = 0.0
        self._away: Outage | None = None
        """The broker's."""
        self._store_away: Outage | None = None
        """The result store's, which is another server's."""
        self._spare_until = 0.0
        self._reconcile = False
        self._reconcile_again_at: float | None = None
        self._last_report: WorkerReport | None = None

        self._drain_asked = False
        self._leave_asked = False
        self._leave_called = False
        self._cold_asked = False
        self.draining = False
        self.exit_code = 0
        """Other than 0 when running tasks were given up: one of `EXIT_CODES`."""
        self._leave_by: float | None = None
        self.connected = False
        self._was_connected = False
        self.last_pass = clock()
        """When the loop last came round: liveness looks at it."""
        self._busy = 0

        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._woken = False
        self._notified = False
        self._watch = transport.watch(self._message_waits)

    # what other threads and signal handlers may call

    def wake(self) -> None:
        """Let the loop come round now. Safe from any thread and from a signal handler."""
        if not self._woken:
            self._woken = True
            try:
                self._wake_writer.send(b".")
            except (BlockingIOError, OSError):
                return  # it is full, so the loop will wake; or closed, so there is no loop

    def _message_waits(self) -> None:
        self._notified = True
        self.wake()

    def drain(self) -> None:
        """Stop consuming, finish what runs, then stay idle until told to leave."""
        self._drain_asked = True
        self.wake()

    def leave(self) -> None:
        """Drain, then end. A second call ends at once: what runs goes back to its queue."""
        if self._leave_called:
            self._cold_asked = True
        self._leave_called = self._drain_asked = self._leave_asked = True
        self.wake()

    @property
    def ready(self) -> bool:
        """Whether it consumes: connected and not draining."""
        return self.connected and not self.draining

    @property
    def idle(self) -> bool:
        """Whether it has nothing in hand, and nothing to tell the broker."""
        return not (self._hands.held or self._hands.settle or self._settling or self._asked or self._undone)

    @property
    def slots(self) -> int:
        """How many tasks can run at once, in a pool with bounds when it has grown to its most.

        By this number the operator divides: else it would start workers before this one has grown.
        """
        bounds = self._settings.autoscale
        return self._pool.slots if bounds is None else bounds.most

    @property
    def current_slots(self) -> int:
        """How many slots the pool has now."""
        return self._pool.slots

    @property
    def busy(self) -> int:
        """How many tasks ran at the last look."""
        return self._busy

    # the loop

    def run(self) -> None:
        """Go round until told to leave and drained. Raises what a broken pool raises."""
        descriptor = self._pool.fileno()
        if descriptor is not None:
            self._selector.register(descriptor, selectors.EVENT_READ)
        watched = self._watch.fileno()
        if watched is not None:
            self._selector.register(watched, selectors.EVENT_READ, self._watch)
        try:
            while self.step():
                self._wait()
            if self.connected:  # a last report, so that nobody waits for this worker
                self._report_at = self._tick_at = 0.0
                self._exchange()
        finally:
            self.close()

    def close(self) -> None:
        """Stop watching, and say nothing to anybody. `run` does so at its end."""
        self._watch.close()
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _gone(self) -> bool:
        """Whether it is time to end; a drain that takes too long is cut short here."""
        if self._leave_by is None:
            return False
        overdue = self._clock() >= self._leave_by
        if overdue or self._cold_asked:
            self._abandon("ColdShutdown" if self._cold_asked else "DrainTimeout")
            return True
        return self.idle

    def _wait(self) -> None:
        now = self._clock()
        until = min(now + TICK_SECONDS, self._check_at, max(self._tick_at, self._retry_at))
        if self._eta_at is not None and not self.draining:
            until = min(until, max(self._eta_at, self._retry_at))
        if self._leave_by is not None:
            until = min(until, self._leave_by)
        ready = self._selector.select(max(0.0, until - now))
        if any(key.data is self._watch for key, _ in ready):
            self._notified = True
        if self._woken:
            with contextlib.suppress(BlockingIOError):
                self._wake_reader.recv(64)
            self._woken = False

    def step(self) -> bool:
        """Come round once, without waiting: for `run`, and for those who keep its time themselves.

        Returns False when it has left. Raises what a broken pool raises.
        """
        self.last_pass = now = self._clock()
        if self._notified:
            self._notified = False
            self._look()
        self._collect(now)
        if self._drain_asked and not self.draining:
            self._enter_drain()
        if self._leave_asked and self._leave_by is None:
            self._leave_by = now + self._settings.drain_timeout_seconds
        if now >= self._check_at:
            self._check_at = now + self._pool.check()
            self._busy = len(self._pool.running())
            self._autoscale()
        if self._hands.given_back and not self.draining:
            again = self._hands.given_back
            room = self._pool.room(self._depth())
            self._submit([again.popleft() for _ in range(min(room, len(again)))])
        if now >= self._retry_at:
            self._exchange()
        if self._asked and self._asked[0].since + PUBLISH_PATIENCE_SECONDS < now:
            self._answer("the broker cannot be reached")
        return not self._gone()

    def _exchange(self) -> None:
        """Have our turns with the broker: housekeeping when due, then turns while they bring something."""
        try:
            now = self._clock()
            eta_is_due = self._eta_at is not None and now >= self._eta_at
            if now >= self._tick_at or eta_is_due or self._reconcile:
                self._tick(now)
                self._hungry = self._hungry or eta_is_due
            more = self._turn()
            if not self.connected:  # both went well: housekeeping that does alone is no broker to work with
                self._recovered()
            while more:
                more = self._turn()
        except BrokerUnavailable as error:
            self._outage(error)

    def _collect(self, now: float) -> None:
        for event in self._pool.collect():
            match event:
                case Outcome():
                    self._hands.finished(event)
                case Lost():
                    self._hands.lost(event)
                case Returned():
                    if job := self._hands.returned(event.number, draining=self.draining):
                        self._pool.submit([job])
                case Publish():
                    token = f"{self._life}:{self._next_token}"
                    self._next_token += 1
                    self._asked.append(_Asked(event.token, now, Sending(token, event.publications)))
                case Started():
                    self._hands.started(event)

    def _outage(self, error: BrokerUnavailable) -> None:
        if not (self._settings.retry_on_startup or self._was_connected):
            raise error
        now = self._clock()
        self._away, warns = after_failure(self._away, now, self._dice())
        if warns:
            held = len(self._hands.held)
            meanwhile = f"{held} tasks go on" if held else "no task is running here"
            logger.warning("the broker: %s", sentence(error, self._away, now, meanwhile=meanwhile))
        self._retry_at = self._away.retry_at
        self._watch.reset()
        self._reconcile_again_at = now + RECONCILE_AGAIN_SECONDS
        self.connected = False
        self._reconcile = self._hungry = True
        self._report_at = 0.0

    def _recovered(self) -> None:
        if self._away is not None:
            self._log_answer("the broker", self._away)
            self._spare_until = self._clock() + SPARE_SECONDS
        if not self._was_connected:
            settings = self._settings
            bounds = settings.autoscale
            logger.info(
                "%s ready: %s with %s slots, queues %s, %d tasks, broker %s",
                settings.hostname,
                settings.pool_type,
                self._pool.slots if bounds is None else f"{bounds.fewest} to {bounds.most}",
                ", ".join(settings.queues),
                len(self._policies),
                settings.broker,
            )
        self._away = None
        self._retry_at = 0.0
        self.connected = self._was_connected = True

    def _log_answer(self, who: str, outage: Outage) -> None:
        logger.info(
            "%s answers, after %s and %d attempts",
            who,
            lasted(self._clock() - outage.since),
            outage.attempts,
        )

    # housekeeping

    def _tick(self, now: float) -> None:
        if self._reconcile_again_at is not None and now >= self._reconcile_again_at:
            self._reconcile_again_at = None
            self._reconcile = True
        if self._reconcile:
            self._take(self._watch.recall())  # what it has claimed is no answer that got lost
            self._hungry = True
        renew: list[tuple[str, str]] = []
        if now >= self._renew_at or self._reconcile:
            renew = self._hands.leases()
            # what is done and waits to be settled is ours as well
            done = (*self._hands.settle, *self._settling)
            renew += [(s.queue, s.tag) for s in done if s.verdict is not Verdict.ACKED]
        report = self._make_report(now)
        ticked = self._transport.tick(
            Tick(
                renew=renew,
                reconcile=self._reconcile,
                spare=self._reconcile or now < self._spare_until,
                report=None if report is None else encode_report(report),
                revoked_after=self._revoked_after,
            )
        )
        self._reconcile = False
        if now >= self._renew_at:
            self._renew_at = now + self._settings.lease_seconds / 3
        self._tick_at = now + TICK_SECONDS
        self._ticked_at = now
        if report is not None:
            self._last_report = report
            self._report_at = now + REPORT_SECONDS * (0.9 + self._dice() / 5)
        if ticked.next_eta is None:
            self._eta_at = None
        else:
            self._eta_at = now + max(ETA_SECONDS, ticked.next_eta - ticked.now)
        self._undone = ticked.undone
        if ticked.revoked:
            self._hands.revoke(list(ticked.revoked))
            self._revoked_after = ticked.now
        self._ahead = ticked.now - self._clock()
        self._hungry = self._hungry or ticked.ready
        self._look()
        if ticked.gone:
            self._hands.leases_gone(frozenset(ticked.gone))
        for command in ticked.commands:
            self._obey(command)

    def _obey(self, command: bytes) -> None:
        try:
            instruction = control.decode(command)
        except msgspec.DecodeError as error:
            logger.warning("a control message is not understood and ignored: %s", error)
            return
        self.drain()
        if instruction.method == "leave":  # no call of `leave`: a SIGTERM that follows is the first one
            self._leave_asked = True

    def _make_report(self, now: float) -> WorkerReport | None:
        """Return a report when one is due: on change, or when the last is 5 s old."""
        running = self._pool.running()
        self._busy = len(running)
        drained = self.draining and self.idle
        news = is_news(
            self._last_report,
            busy=len(running),
            draining=self.draining,
            drained=drained,
            leaving=self._leave_asked,
        )
        if not news and now < self._report_at:
            return None
        return make_report(
            self._settings,
            self.tally,
            running,
            slots=self.slots,
            held={number: held.delivery.queue for number, held in self._hands.held.items()},
            draining=self.draining,
            drained=drained,
            leaving=self._leave_asked,
        )

    # turns

    def _look(self) -> None:
        seen = self._watch.look()
        self._take(seen)
        if seen.deliveries and not self._hungry:  # else the turn that follows does
            self._watch.arm(self._idle_slots())

    def _take(self, seen: Seen) -> None:
        """Take over what the watch has seen, and claimed."""
        self._hungry = self._hungry or seen.come
        if seen.lost:
            self._reconcile = True
            self._reconcile_again_at = self._clock() + RECONCILE_AGAIN_SECONDS
        if not seen.deliveries:
            return
        now = self._clock() + self._ahead
        late = now - seen.now > self._settings.lease_seconds / 3
        jobs = []
        for delivery in seen.deliveries:
            if self.draining:
                self._hands.refuse(delivery)
            # one that waited for us (we were stopped) may be somebody else's by now: its start is asked for
            elif job := self._hands.admit(
                msgspec.structs.replace(delivery, running=False) if late else delivery, now
            ):
                jobs.append(job)
        room = self._pool.room(1)
        if jobs:
            self._submit(jobs[:room])
            self._hands.given_back.extend(jobs[room:])

    def _idle_slots(self) -> int:
        """Return how many messages may be claimed while we wait: one for each slot that has nothing to do."""
        if self._settings.autoscale is not None or self.draining or self._hands.exclusive:
            return 0
        return max(0, self._pool.room(1) - self._hands.coming)

    def _depth(self) -> int:
        allowed = depth(self._hands.estimate)
        return min(allowed, self._settings.max_depth) if self._settings.max_depth else allowed

    def _room(self, depth: int) -> int:
        """Return how many more jobs the pool could hold, in slots too that are yet to be made."""
        room = self._pool.room(depth)
        bounds = self._settings.autoscale
        return room if bounds is None else room + depth * (bounds.most - self._pool.slots)

    def _autoscale(self) -> None:
        """Give a pool with bounds the size that our messages want. Called before they are handed over."""
        bounds = self._settings.autoscale
        if bounds is None:
            return
        now = self._clock()
        size = self._size or Size(self._pool.slots, now)
        long = sum(run.age_seconds >= BEHIND_SECONDS for run in self._pool.running())
        needed = slots_needed(len(self._hands.held), long=long, depth=self._depth())
        self._size = resize(size, bounds, needed=needed, now=now)
        if self._size.slots != size.slots:
            logger.info("autoscale: %d slots, %d before", self._size.slots, size.slots)
            self._pool.resize(self._size.slots)
        if (
            len(self._hands.held) > self._size.slots
        ):  # they share slots, which is wrong as soon as one is long
            self._check_at = min(self._check_at, now + BEHIND_SECONDS)

    def _turn(self) -> bool:
        """Have one turn. Returns whether another one right away could bring more."""
        hands = self._hands
        claim = 0
        self._store_results()
        consuming = not self.draining and len(hands.settle) < MAX_UNSETTLED and not hands.exclusive
        allowed = self._watch.allowed
        if allowed and (self._hungry or not consuming or allowed > self._idle_slots()):
            self._take(self._watch.recall())
            self._hungry = True
        if consuming and self._hungry:
            claim = max(0, self._room(self._depth()) - hands.coming)
        starting = []
        if hands.waiting and not self.draining:
            room = self._pool.room(1) - len(hands.acking)
            starting = hands.to_start(room, self._clock() + self._ahead)
        early = [number for number in hands.acking if number in hands.held]
        begun = hands.begun if self._results is None else []
        if not (claim or starting or early or self._settling or self._asked or begun):
            return False
        starts: list[int] = []
        for number in starting:
            (starts if hands.held[number].asks else early).append(number)
        try:
            turned = self._transport.turn(
                Turn(
                    store=begun,
                    settle=[*self._settling, *map(hands.early_ack, early)],
                    send=[asked.sending for asked in self._asked],
                    start=[hands.start(number) for number in starts],
                    claim=claim,
                    run=claim,
                )
            )
        except BrokerUnavailable:
            hands.waiting.extendleft(reversed(starts))
            hands.acking = early
            self._unanswered = len(self._settling)
            raise
        hands.acking = []
        if begun:
            hands.begun = []
        self._settled(turned.settled)
        self._sent(turned.unsent)
        self._undone = turned.undone
        submit: list[Job] = []
        again = False
        now = turned.now
        self._ahead = now - self._clock()
        for number, ours in zip(starts, turned.started, strict=True):
            tag = hands.held[number].delivery.tag
            if ours and (job := hands.may_run(number)):
                submit.append(job)
            elif ours:  # its rate lets it start: now it is acknowledged
                again = True
            elif tag in turned.put_off:
                again = True  # there is room for another
                hands.put_off(number, turned.put_off[tag] - now)
            else:
                del hands.held[number]
        for number, acked in zip(early, turned.settled[len(turned.settled) - len(early) :], strict=True):
            if acked:
                submit.append(hands.acked(number))
            else:
                hands.leave_to_others(number)
        for delivery in turned.deliveries:
            job = hands.admit(delivery, now)
            if job is not None:
                submit.append(job)
        if turned.deliveries:
            self._autoscale()
        if submit:
            self._submit(submit)
        if claim:
            if len(turned.deliveries) < claim:
                self._hungry = False
                self._watch.arm(self._idle_slots())
            return bool(hands.settle or hands.waiting)
        return again

    def _submit(self, jobs: Sequence[Job]) -> None:
        self._pool.submit(jobs)
        if any(job.hard_limit or job.soft_limit for job in jobs):
            self._check_at = 0.0
        else:  # a slot may not get on
            self._check_at = min(self._check_at, self._clock() + BEHIND_SECONDS)

    def _store_results(self) -> None:
        """Put results into a store of their own. What has its result there, or has none, can be given up."""
        hands = self._hands
        done, hands.settle = hands.settle, []
        results = [s.result for s in done if s.result is not None]
        if self._results is not None and (results or hands.begun):
            if self._stored(self._results, [*hands.begun, *results], len(results)):
                hands.begun = []
            else:
                hands.settle = [s for s in done if s.result is not None]
                done = [s for s in done if s.result is None]
        self._settling += done

    def _stored(self, store: ResultStore, results: Sequence[StoredResult], done: int) -> bool:
        """Return whether the store has them; `done` tasks wait for it. While it is away it is asked less."""
        away = self._store_away
        if away is not None and self._clock() < away.retry_at:
            return False
        try:
            store.store(results)
        except BrokerUnavailable as error:
            now = self._clock()
            self._store_away, warns = after_failure(away, now, self._dice())
            if warns:
                meanwhile = f"{done} tasks are done and wait to leave their results there" + (
                    ", and no more are claimed" if done >= MAX_UNSETTLED else ""
                )
                logger.warning(
                    "the result store: %s", sentence(error, self._store_away, now, meanwhile=meanwhile)
                )
            return False
        if away is not None:
            self._log_answer("the result store", away)
            self._store_away = None
        return True

    def _settled(self, bits: Sequence[bool | None]) -> None:
        again = [settlement for settlement, ours in zip(self._settling, bits, strict=False) if ours is None]
        for number, (settlement, ours) in enumerate(zip(self._settling, bits, strict=False)):
            if ours is None:
                continue
            if not ours:
                logger.warning(
                    "a message of queue %s was no longer ours when it was done (%s): %s",
                    settlement.queue,
                    settlement.tag,
                    "said before, whose answer got lost, or its lease had ended and it runs again"
                    if number < self._unanswered
                    else "its lease had ended, and it runs again",
                )
            elif settlement.verdict is Verdict.DEAD:
                self.tally.buried(settlement.queue, settlement.reason)
        self._settling = again
        self._unanswered = len(again)

    def _sent(self, unsent: Mapping[str, str]) -> None:
        """Let the tasks go on whose messages were sent, or cannot be; the others wait on."""
        asked, self._asked = (
            self._asked,
            [each for each in self._asked if unsent.get(each.sending.token) == ""],
        )
        done: dict[str, list[int]] = {}
        for each in asked:
            error = unsent.get(each.sending.token)
            if error != "":
                done.setdefault(error or "", []).append(each.token)
        for error, tokens in done.items():
            self._pool.published(tokens, error)

    def _due_in(self, seconds: float) -> None:
        """Note that a message which we have put off is due then."""
        due = max(self._clock() + seconds, self._ticked_at + ETA_SECONDS)
        self._eta_at = due if self._eta_at is None else min(self._eta_at, due)

    def _answer(self, error: str) -> None:
        """Let the tasks go on that asked to publish; after an `error` it is not tried again."""
        tokens = [asked.token for asked in self._asked]
        self._asked = []
        self._pool.published(tokens, error)

    # the end

    def _enter_drain(self) -> None:
        self.draining = True
        self._report_at = self._tick_at = 0.0
        self._take(self._watch.recall())
        self._pool.recall()
        self._hands.give_back_waiting()
        self._collect(self._clock())
        logger.info("draining: %d tasks run", len(self._hands.held))

    def _abandon(self, cause: str) -> None:
        """Give up on what still runs: its process is ended, then it goes back to its queue.

        Tasks of this process end with it and not before. Then giving back is the last that it does: from
        there on somebody else may run them.
        """
        ended = self._pool.kill()
        self._collect(self._clock())  # what was done before is done
        if self._hands.held:
            self.exit_code = EXIT_CODES[cause]
        self._hands.give_up(cause)
        self._retry_at = 0.0
        if not ended:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            sys.setswitchinterval(1e-6)  # tasks let go of the interpreter as soon as the answer is there
        try:
            self._exchange()
        finally:
            if self.exit_code and not ended:
                self._end_process(self.exit_code)
