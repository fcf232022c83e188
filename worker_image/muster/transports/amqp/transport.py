"""The RabbitMQ transport of a worker: messages pushed to it, settled by confirmed copies and acks.

Two connections: one consumes and acknowledges (`consumer`), one publishes with confirms (`outbox`), because a
server short of memory stops listening to who publishes, and acknowledgements are what it needs then.

A lease is the connection itself, by its heartbeat: when it ends, the broker gives everything back, and the
tags of its life are worth nothing. What a message becomes (behind the others, one loss more, a dead letter,
later) is a copy, confirmed before the original is acknowledged: so nothing is lost between, and giving back
neither counts as a delivery of it nor marks it as possibly run. `suspects` tells those apart that may have,
`kept` renews what is held for longer than the server allows, and `paces` says how often a task may start in
all workers together.

RabbitMQ tells no time: `now` is this machine's.
"""

import copy
import heapq
import itertools
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import pika
from pika.exceptions import AMQPError

from muster.core.rate import Rate
from muster.errors import BrokerBlocked, BrokerUnavailable
from muster.settings.environment import DeadLetter
from muster.settings.queues import AS_CELERY, QueueArguments
from muster.transports.amqp import suspects
from muster.transports.amqp.address import addresses
from muster.transports.amqp.consumer import Consumer, Pushed, is_suspect
from muster.transports.amqp.kept import KEEP_AFTER_SECONDS, Keeper
from muster.transports.amqp.line import NOT_FOUND, Line, Parcel, Refusal
from muster.transports.amqp.mailbox import Mailbox
from muster.transports.amqp.names import (
    KEPT_HEADER,
    QUEUE_HEADER,
    REASON_HEADER,
    REPORTS,
    SUSPECT_HEADER,
    TEXT_HEADER,
)
from muster.transports.amqp.outbox import CONFIRM_SECONDS, Left, Letter, Outbox, letter
from muster.transports.amqp.paces import Paces
from muster.transports.amqp.watch import AmqpWatch
from muster.transports.base import (
    Delivery,
    Sending,
    Settlement,
    Start,
    Tick,
    Ticked,
    Turn,
    Turned,
    Verdict,
)
from muster.wire.amqp import AmqpMessage, from_amqp
from muster.wire.errors import MalformedMessage
from muster.wire.message import CAUSE_FIELD, LOSSES_FIELD

logger = logging.getLogger("muster.transport")

MIN_HEARTBEAT_SECONDS: Final = 5
LEFT_SECONDS: Final = 0.5
"""What was pushed and finds no place for so long goes to others."""
WAIT_HERE_SECONDS: Final = 2.0
"""What is due so soon waits in our hands: on the broker it would wait for whole seconds."""
REMEMBERED: Final = 10_000
"""Of so many settlements and sendings it is remembered what was sent for them."""
LOOK_AGAIN_SECONDS: Final = 1.0
"""How often a queue that is not there is looked for."""
ASK_AGAIN_SECONDS: Final = (0.05, 0.25)
"""A start whose rate others are asking for asks again after some time between these."""
_NO_PLACE: Final = frozenset(
    {"CC", "BCC", "x-delivery-count", "x-death", "x-first-death-exchange", SUSPECT_HEADER, KEPT_HEADER}
)
"""Headers that are not for a copy: the broker's own, other queues, and marks that are set anew."""


class _Job(msgspec.Struct):
    """Letters that have to be delivered before something else is done, and how far that is."""

    key: str
    letters: list[Letter]
    missing: list[Letter] = []
    rejected: int = 0
    refused: list[tuple[Letter, str]] = []
    """What the server does not take, and why."""
    waits: bool = False
    """The broker takes no messages now."""


class AmqpTransport:
    """See the module, and `muster.transports.base.Transport`.

    `delayed_type`, `create_missing_queues` and `queue_arguments` are as for `outbox.Outbox`.
    `declare_queues`: the queues that it consumes, and their dead letters', are declared when they are not
    there; else they are waited for.
    What is held for longer than `keep_after_seconds` is renewed; see `kept`.
    """

    def __init__(
        self,
        url: str,
        *,
        queues: Sequence[str],
        worker: str,
        pool: str,
        lease_seconds: float,
        dead_letters: Mapping[str, DeadLetter],
        delayed_type: str = "quorum",
        create_missing_queues: bool = True,
        queue_arguments: QueueArguments = AS_CELERY,
        declare_queues: bool = True,
        confirm_seconds: float = CONFIRM_SECONDS,
        keep_after_seconds: float = KEEP_AFTER_SECONDS,
    ) -> None:
        heartbeat = max(MIN_HEARTBEAT_SECONDS, int(lease_seconds))
        places = addresses(url, heartbeat_seconds=heartbeat)
        self._pool = pool
        self._declares = declare_queues
        self._arguments = queue_arguments
        self._confirm_seconds = confirm_seconds
        self._dead = {name: dead_letters.get(name) or DeadLetter(name=f"{name}.dead") for name in queues}
        self.consumer = Consumer(places, queues)
        self._mailbox = Mailbox(self.consumer.line, worker)
        self._out = Line(places)
        self._outbox = Outbox(
            self._out,
            delayed_type=delayed_type,
            declares=create_missing_queues,
            arguments=queue_arguments,
            confirm_seconds=confirm_seconds,
            patient=False,
        )
        self._keeper = Keeper(
            self.consumer,
            self._out,
            worker,
            copy=_kept_copy,
            renumbered=self._renumber,
            after_seconds=keep_after_seconds,
        )
        self._paces = Paces(
            self._out, confirm_seconds=confirm_seconds, lost_after_seconds=3 * heartbeat + confirm_seconds
        )
        self._put_off: list[Settlement] = []
        """Of starts that wait for their rate and that the broker has not taken back: said until it has."""
        self._paceless: set[str] = set()
        """Tasks of which it was said that their rate cannot be asked for."""
        self._tags = itertools.count(1)
        self._held: dict[str, Pushed] = {}
        self._counts: dict[int, int] = {}
        """Suspect's number → how many starts of it were noted before it came to us."""
        self._waiting: list[tuple[float, int, Pushed]] = []
        """Heap of (due, number, message)."""
        self._sent: OrderedDict[str, set[int]] = OrderedDict()
        """Tag or token → which of its letters have been delivered."""
        self._under_way: list[tuple[str, int]] = []
        """(tag or token, place) of letters that were sent when the broker began to take no messages."""
        self._returning: list[Pushed] = []
        """What is given back by copies that have no answer yet, for the same reason."""
        self._early: OrderedDict[str, None] = OrderedDict()
        """Tags that were acknowledged early."""
        self._absent: dict[str, float] = {}
        """Queues that are not there, and when to look again, monotonic seconds."""
        self._graves: set[str] = set()
        self._reports_there = False
        self._consumes = False
        self._resting: set[str] = set()
        """Queues of which more was pushed than finds a place: not consumed until there is one."""

    # connections

    def _connect(self) -> None:
        consumer = self.consumer
        if consumer.line.is_open:
            try:
                consumer.serve()
            except BrokerUnavailable:
                consumer.line.close()
                raise
        else:
            self._lose_all()
            self._resting.clear()
            consumer.connect()
        if not (self._out.is_open and self._out.check()):
            self._out.open()
            self._outbox.forget()
            returning, self._returning = self._returning, []
            self._sent_back(returning, Left(range(len(returning))))
            self._paces.forget()
            self._paceless.clear()
            self._under_way = []
            self._graves.clear()
            self._reports_there = False

    @contextmanager
    def _closed_is_away(self) -> Iterator[None]:
        """Turn what pika says of a channel that closes in the middle of a call into our error."""
        try:
            yield
        except AMQPError as error:
            self.consumer.line.close()
            raise BrokerUnavailable(
                f"RabbitMQ at {self.consumer.line.place} has closed what we used: {error}"
            ) from error

    def _lose_all(self) -> None:
        """Be done with what the broker has given back: its connection has ended."""
        self._held.clear()
        self._waiting.clear()
        self._returning.clear()
        self._counts.clear()
        self.consumer.forget()

    # turns

    def turn(self, turn: Turn) -> Turned:
        """Carry out settlements and sendings, then starts, then the claim."""
        with self._closed_is_away():
            return self._turn(turn)

    def _turn(self, turn: Turn) -> Turned:
        self._connect()
        settled, unsent = self._carry_out([*turn.settle, *self._put_off], turn.send)
        self._put_off = _undone(self._put_off, settled[len(turn.settle) :])
        now = time.time()
        put_off = self._over_rates(turn.start, now)
        return Turned(
            settled=settled[: len(turn.settle)],
            unsent=unsent,
            started=[each.tag not in put_off and self._start(each) for each in turn.start],
            put_off=put_off,
            deliveries=self._claim(turn.claim, turn.run),
            now=now,
            undone=len(self._put_off),
        )

    def _carry_out(
        self, settlements: Sequence[Settlement], sendings: Sequence[Sending]
    ) -> tuple[list[bool | None], dict[str, str]]:
        """Return `Turned.settled` and `Turned.unsent`."""
        ours = [self._held.get(each.tag) for each in settlements]
        settling = [
            _Job(each.tag, self._letters(each, pushed))
            for each, pushed in zip(settlements, ours, strict=True)
        ]
        sending, refused = _sendings(sendings)
        self._deliver([*settling, *sending])
        settled = [
            self._settle(each, pushed, job)
            for each, pushed, job in zip(settlements, ours, settling, strict=True)
        ]
        self._acknowledge(settlements, ours, settled)
        return settled, refused | {job.key: reason for job in sending if (reason := _unsent(job)) is not None}

    def _deliver(self, jobs: Sequence[_Job]) -> None:
        """Send what has not been sent before; note in each job what could not be."""
        clear = self._is_clear()
        todo: list[tuple[_Job, int]] = []
        for job in jobs:
            sent = self._sent.get(job.key, set())
            todo += [(job, place) for place in range(len(job.letters)) if place not in sent]
        if not todo:
            return
        try:
            if not clear:
                raise BrokerBlocked("what was sent before has no answer yet")
            left = self._outbox.send([job.letters[place] for job, place in todo])
        except BrokerBlocked:
            if clear:
                self._under_way = [(job.key, place) for job, place in todo]
            for job, _ in todo:
                job.waits = True
            return
        missing, rejected, refused = set(left.missing), set(left.rejected), left.refused
        for number, (job, place) in enumerate(todo):
            if number in missing:
                job.missing.append(job.letters[place])
            elif number in rejected:
                job.rejected += 1
            elif number in refused:
                job.refused.append((job.letters[place], refused[number]))
            else:
                self._remember(job.key, place)

    def _is_clear(self) -> bool:
        """Whether the broker takes messages, and has answered for those that it did not take at once."""
        if self._out.blocked:
            return False
        left = self._outbox.finish()
        if left is None:
            return False
        for number, (key, place) in enumerate(self._under_way):
            if number not in set(left.missing):
                self._remember(key, place)
        returning, self._returning = self._returning, []
        self._sent_back(returning, left)
        self._under_way = []
        return True

    def _is_under_way(self, tag: str) -> bool:
        return any(key == tag for key, _ in self._under_way)

    def _remember(self, key: str, place: int) -> None:
        self._sent.setdefault(key, set()).add(place)
        while len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    def _letters(self, settlement: Settlement, pushed: Pushed | None) -> list[Letter]:
        """Return what has to be delivered before a settlement: what its task publishes, then its own copy."""
        acked = settlement.verdict is Verdict.ACKED
        if pushed is None and not acked:
            return []
        letters = self._carried(settlement)
        if pushed is not None:
            match settlement.verdict:
                case Verdict.RETURN:
                    letters.append(self._given_back(pushed))
                case Verdict.LOST:
                    letters.append(_copied(pushed, headers=self._with_loss(pushed, settlement.reason)))
                case Verdict.DEAD:
                    letters.append(self._dead_letter(pushed, settlement.reason, settlement.text))
                case Verdict.DEFER if (
                    settlement.eta - time.time() > WAIT_HERE_SECONDS
                    or settlement.tag in self._sent
                    or self._is_under_way(settlement.tag)
                ):
                    letters.append(self._given_back(pushed, settlement.eta))
                case Verdict.REQUEUE:
                    letters.append(_copied(pushed))
        return letters

    def _settle(self, settlement: Settlement, pushed: Pushed | None, job: _Job) -> bool | None:
        """Return whether it was ours and is done; None: it has to be said again. Acknowledges nothing yet."""
        verdict = settlement.verdict
        if not job.waits:
            self._bury_what_goes_nowhere(settlement, job)
        undelivered = job.waits or job.rejected or job.missing or job.refused
        if verdict is Verdict.ACKED:
            return None if undelivered else True
        if pushed is None:
            return verdict is Verdict.ACK_EARLY and settlement.tag in self._early
        if undelivered:
            if self._is_under_way(settlement.tag) or verdict not in {Verdict.RETURN, Verdict.REQUEUE}:
                return None
            self.consumer.requeue([pushed])  # its own place takes it in any case
            self._let_go(settlement.tag)
        return True

    def _bury_what_goes_nowhere(self, settlement: Settlement, job: _Job) -> None:
        """Bury what is for a queue that is not there, and what the server does not take.

        A task has run and is not told, or its own queue is gone. Of what is too large the dead letter has no
        body: it would be as large.
        """
        grave = self._dead[settlement.queue].name
        orphans = [each for each in job.missing if each.queue != grave]
        refused = [each for each in job.refused if each[0].queue != grave]
        if not orphans and not refused:
            return
        whose = f"for what comes of a message of queue {settlement.queue}"
        buried = []
        for each in orphans:
            text = f"there is no queue {each.queue!r} {whose}"
            buried.append(self._grave_of(settlement, "UnroutableMessage", text, each.body, each.properties))
        for each, words in refused:
            text = f"RabbitMQ does not take {len(each.body)} bytes {whose} to {each.queue!r}: {words}"
            buried.append(self._grave_of(settlement, "MessageRefused", text, b"", each.properties))
        left = self._outbox.send(buried)
        failed = {*left.missing, *left.rejected, *left.refused}
        done = {id(each) for place, each in enumerate([*orphans, *refused]) if place not in failed}
        job.missing = [each for each in job.missing if id(each) not in done]
        job.refused = [each for each in job.refused if id(each) not in done]

    def _grave_of(
        self, settlement: Settlement, reason: str, text: str, body: bytes, properties: Any
    ) -> Letter:
        """Return the dead letter of something that comes of a message, and say so."""
        logger.error("%s: it goes to its dead letters", text)
        headers = {REASON_HEADER: reason, TEXT_HEADER: text, QUEUE_HEADER: settlement.queue}
        kept = _changed(properties, headers)
        kept.expiration = None  # who looks for it comes later
        return Letter(self._place(settlement.queue), body, kept)

    def _carried(self, settlement: Settlement) -> list[Letter]:
        """Return what a task that has run publishes; what AMQP cannot carry is buried as it was written."""
        letters = []
        for publication in settlement.publish:
            try:
                letters.append(letter(publication))
            except MalformedMessage as error:
                text = f"what comes of a message of queue {settlement.queue} is not sent: {error}"
                properties = pika.BasicProperties(content_type="application/json", delivery_mode=2)
                raw = publication.raw
                letters.append(self._grave_of(settlement, "MalformedMessage", text, raw, properties))
        return letters

    def _acknowledge(
        self, settlements: Sequence[Settlement], ours: Sequence[Pushed | None], settled: Sequence[bool | None]
    ) -> None:
        done: list[Pushed] = []
        early = False
        for settlement, pushed, was in zip(settlements, ours, settled, strict=True):
            if not was or pushed is None or settlement.tag not in self._held:
                continue
            match settlement.verdict:
                case Verdict.DEFER if settlement.tag not in self._sent:  # no copy of it waits
                    heapq.heappush(self._waiting, (settlement.eta, pushed.number, pushed))
                    del self._held[settlement.tag]
                    continue
                case Verdict.ACK_EARLY:
                    early = True
                    self._early[settlement.tag] = None
                    done.append(pushed)
                case Verdict.RETURN | Verdict.DEFER:  # a suspect's count goes on
                    done.append(pushed)
                case _:
                    done.append(pushed)
                    self._forget_count(pushed)
            self._let_go(settlement.tag)
        self.consumer.ack(done)
        self.consumer.line.flush()
        while len(self._early) > REMEMBERED:
            self._early.popitem(last=False)
        if early:
            self.consumer.sync()

    def _let_go(self, tag: str) -> None:
        pushed = self._held.pop(tag, None)
        if pushed is not None:
            self._counts.pop(pushed.number, None)

    def _renumber(self, old: int, new: int) -> None:
        if old in self._counts:
            self._counts[new] = self._counts.pop(old)

    # suspects

    def _given_back(self, pushed: Pushed, eta: float = 0.0) -> Letter:
        """Return what gives a message back that has not begun here: a suspect stays one."""
        mark = {SUSPECT_HEADER: True} if is_suspect(pushed) else {}
        return _copied(pushed, headers=mark, eta=eta)

    def _losses(self, pushed: Pushed) -> int:
        noted = (pushed.properties.headers or {}).get(LOSSES_FIELD)
        return (noted if isinstance(noted, int) and noted > 0 else 0) + self._counts.get(pushed.number, 0)

    def _with_loss(self, pushed: Pushed, cause: str) -> dict[str, Any]:
        return {LOSSES_FIELD: self._losses(pushed) + 1, CAUSE_FIELD: cause}

    def _forget_count(self, pushed: Pushed) -> None:
        if is_suspect(pushed):
            suspects.forget(self._out, pushed)

    # starts

    def _find(self, start: Start) -> Pushed | None:
        pushed = self._held.get(start.tag)
        return pushed if pushed is not None and pushed.queue == start.queue else None

    def _over_rates(self, starts: Sequence[Start], now: float) -> dict[str, float]:
        """Put off what the rate of all workers does not let start now; return until when, by tag."""
        by_task: dict[str, list[tuple[str, Rate]]] = {}
        queues = {each.tag: each.queue for each in starts}
        for each in starts:
            if each.rate is not None and self._find(each) is not None:
                by_task.setdefault(each.task, []).append((each.tag, each.rate))
        until: dict[str, float] = {}
        for task, asked in by_task.items():
            answers = self._ask_rate(task, [rate for _, rate in asked], now)
            until |= {tag: at for (tag, _), at in zip(asked, answers, strict=True) if at}
        if until:
            waits = [
                Settlement(tag=tag, queue=queues[tag], verdict=Verdict.DEFER, eta=at)
                for tag, at in until.items()
            ]
            self._put_off += _undone(waits, self._carry_out(waits, ())[0])
        return until

    def _ask_rate(self, task: str, rates: Sequence[Rate], now: float) -> list[float]:
        answers = None
        if self._is_clear():
            try:
                answers = self._paces.ask(task, rates, now)
            except BrokerBlocked as blocked:
                logger.debug("the rate of %s cannot be asked for: %s", task, blocked)
            except Refusal as refusal:
                if task not in self._paceless:
                    logger.error(  # noqa: TRY400 - where it was found says nothing
                        "%s waits: the rate of all workers cannot be kept: RabbitMQ at %s answers: %s",
                        task,
                        self._out.place,
                        refusal,
                    )
                    self._paceless.add(task)
                return [now + LOOK_AGAIN_SECONDS] * len(rates)
        soon = now + random.uniform(*ASK_AGAIN_SECONDS)  # so that workers do not meet again
        return [soon] * len(rates) if answers is None else answers

    def _start(self, start: Start) -> bool:
        pushed = self._find(start)
        if pushed is None:
            return False
        if is_suspect(pushed) and self._is_clear():  # else this one is not counted
            try:
                suspects.note_start(self._out, pushed, self._confirm_seconds)
            except BrokerBlocked as blocked:
                logger.debug("a start could not be noted: %s", blocked)
        return True

    # claims

    def _claim(self, limit: int, run: int) -> list[Delivery]:
        if limit <= 0:
            return []
        self._resting.clear()
        self._consume(limit)
        self.consumer.serve()
        taken: list[Pushed] = []
        now = time.time()
        while self._waiting and self._waiting[0][0] <= now and len(taken) < limit:
            taken.append(heapq.heappop(self._waiting)[2])
        waited = len(taken)
        taken += self.consumer.take(limit - len(taken), suspects=not self._out.blocked)
        deliveries = []
        tags = [f"{self.consumer.life}:{next(self._tags)}" for _ in taken]
        self._held.update(zip(tags, taken, strict=True))  # all at once, so that reconciling finds them
        for number, (tag, pushed) in enumerate(zip(tags, taken, strict=True)):
            suspect = is_suspect(pushed)
            if suspect and pushed.number not in self._counts:
                self._counts[pushed.number] = suspects.starts_so_far(self._out, pushed)
            losses = self._losses(pushed)
            running = run > 0 and not (losses or suspect)
            run -= running
            raw = self._raw(pushed, losses)
            deliveries.append(Delivery(tag, pushed.queue, raw, running, suspect, number < waited))
        return deliveries

    def _raw(self, pushed: Pushed, losses: int) -> bytes:
        properties = pushed.properties
        headers = properties.headers or {}
        if losses:
            cause = "WorkerLost" if self._counts.get(pushed.number) else headers.get(CAUSE_FIELD, "")
            headers = {**headers, LOSSES_FIELD: losses, CAUSE_FIELD: cause}
        return from_amqp(
            AmqpMessage(
                body=pushed.body,
                headers=headers,
                content_type=properties.content_type,
                content_encoding=properties.content_encoding,
                correlation_id=properties.correlation_id,
                reply_to=properties.reply_to,
                expiration=properties.expiration,
                priority=properties.priority,
                delivery_mode=properties.delivery_mode,
                timestamp=properties.timestamp,
            ),
            tag="",
            exchange=pushed.exchange,
            routing_key=pushed.routing_key,
            redelivered=pushed.redelivered,
        )

    def _look_for_queues(self) -> None:
        """Find those that are not consumed; what is not there is declared, where we may, or waited for."""
        now = time.monotonic()
        if self._out.blocked:  # it would not answer
            return
        for queue in set(self.consumer.queues) - self.consumer.consuming - self._resting:
            if now < self._absent.get(queue, 0.0):
                continue
            if self._exists(queue) or (self._declares and self._declare(queue, self._arguments.of(queue))):
                self._absent.pop(queue, None)
            else:
                if queue not in self._absent:
                    logger.warning("queue %s is not there to be consumed: it is waited for", queue)
                self._absent[queue] = now + LOOK_AGAIN_SECONDS

    def _exists(self, queue: str) -> bool:
        try:
            return self._out.count(queue) is not None
        except Refusal as refusal:
            if refusal.code == NOT_FOUND:  # its node is away
                return False
            raise BrokerUnavailable(f"RabbitMQ at {self._out.place}: queue {queue}: {refusal}") from None

    def _declare(self, queue: str, arguments: dict[str, Any]) -> bool:
        try:
            self._out.ask(
                lambda done: self._out.channel.queue_declare(
                    queue, durable=True, arguments=arguments, callback=done
                )
            )
        except Refusal as refusal:
            if refusal.code == NOT_FOUND:
                return False
            raise BrokerUnavailable(f"RabbitMQ at {self._out.place}: queue {queue}: {refusal}") from None
        return True

    # dead letters

    def _place(self, queue: str) -> str:
        """Return the dead letters' queue, seen to be there; with bounds, where it has to be made."""
        place = self._dead[queue]
        if place.name not in self._graves and not self._out.blocked:
            bounds = {"x-max-length": place.max_length, "x-message-ttl": int(place.max_age * 1000)}
            if self._exists(place.name) or (self._declares and self._declare(place.name, bounds)):
                self._graves.add(place.name)
        return place.name

    def _dead_letter(self, pushed: Pushed, reason: str, text: str) -> Letter:
        headers = {REASON_HEADER: reason, TEXT_HEADER: text, QUEUE_HEADER: pushed.queue}
        dead = _copied(pushed, headers=headers)
        dead.properties.expiration = None
        return Letter(self._place(pushed.queue), dead.body, dead.properties)

    # housekeeping

    def tick(self, tick: Tick) -> Ticked:
        """Serve both connections, say what is lost, report, and read what we are told."""
        with self._closed_is_away():
            return self._tick(tick)

    def _tick(self, tick: Tick) -> Ticked:
        self._connect()
        self._mailbox.serve()
        self.consumer.sync()
        held = {tag for _, tag in tick.renew}
        if self._put_off:
            self._put_off = _undone(self._put_off, self._carry_out(self._put_off, ())[0])
        held |= {each.tag for each in self._put_off}
        if tick.reconcile:
            self._send_back([self._held.pop(tag) for tag in list(self._held) if tag not in held], {})
        gone = [tag for _, tag in tick.renew if tag not in self._held]
        if self._is_clear():
            self._keeper.keep(self._held.values(), self._confirm_seconds)
        given_back = self._give_back_what_waits_too_long()
        if self._consumes:  # a queue may have gone, or come
            self._look_for_queues()
            consumed = self.consumer.consuming | self._resting | self._absent.keys()
            self.consumer.consume([queue for queue in self.consumer.queues if queue not in consumed], 1)
        if tick.report is not None:
            self._report(tick.report)
        now = time.time()
        return Ticked(
            now=now,
            next_eta=self._waiting[0][0] if self._waiting else None,
            commands=self._mailbox.commands(),
            revoked=self._mailbox.revoked(),
            gone=gone,
            undone=len(self._put_off),
            ready=given_back or bool(self.consumer.buffered),  # whoever has a place may have it
        )

    def _give_back_what_waits_too_long(self) -> bool:
        """Let others have what was pushed to us and finds no place here: all of it when we do not consume.

        Returns whether there was any.
        """
        before = time.monotonic() - LEFT_SECONDS
        late = [
            queue
            for queue, buffer in self.consumer.buffers.items()
            if buffer and (not self._consumes or buffer[0].at < before)
        ]
        due = [each for each in self._waiting if each[0] < time.time() - LEFT_SECONDS or not self._consumes]
        if not (late or due):
            return False
        self.consumer.cancel(late)
        self._resting.update(late)
        given = [each for _, _, each in due]
        self._waiting = [each for each in self._waiting if each not in due]
        heapq.heapify(self._waiting)
        for queue in late:
            given += self.consumer.buffers[queue]
            self.consumer.buffers[queue].clear()
        self._send_back(given, {number: eta for eta, number, _ in due})
        return True

    def _send_back(self, given: Sequence[Pushed], etas: Mapping[int, float]) -> None:
        """Give back what has not begun: as copies, which nothing marks; where that fails, as it is."""
        left = Left(range(len(given)))
        if self._is_clear():
            try:
                left = self._outbox.send(
                    [self._given_back(each, etas.get(each.number, 0.0)) for each in given]
                )
            except BrokerBlocked:  # the copies are on their way, and count when the alarm is over
                self._returning = list(given)
                return
            except BrokerUnavailable:
                logger.debug("what is given back goes as it is")
        self._sent_back(given, left)

    def _sent_back(self, given: Sequence[Pushed], left: Left) -> None:
        failed = {*left.missing, *left.rejected, *left.refused}
        self.consumer.ack(each for place, each in enumerate(given) if place not in failed)
        self.consumer.requeue(each for place, each in enumerate(given) if place in failed)
        for each in given:
            self._counts.pop(each.number, None)

    def pause(self) -> None:
        """Have nothing more pushed; what has been and was not claimed goes back with the next tick."""
        self._consumes = False
        with self._closed_is_away():
            if self.consumer.line.is_open:
                self.consumer.cancel()

    def listen(self) -> None:
        """Have messages pushed, so that a watch can tell of them."""
        with self._closed_is_away():
            if self.consumer.line.is_open:
                self._consume()

    def _consume(self, wanted: int = 1) -> None:
        """Have so many messages of each queue pushed, or at least that one comes."""
        self._consumes = True
        self._look_for_queues()
        present = [q for q in self.consumer.queues if q not in self._absent and q not in self._resting]
        self.consumer.consume(present, wanted)

    def _report(self, report: bytes) -> None:
        """Tell who listens. What goes wrong with it must not keep tasks from running."""
        out = self._out
        if not (self._is_clear() and out.is_done):
            return
        try:
            if not self._reports_there:
                out.ask(
                    lambda done: out.channel.exchange_declare(REPORTS, "fanout", durable=True, callback=done)
                )
                self._reports_there = True
            properties = pika.BasicProperties(timestamp=int(time.time()))
            out.post(Parcel(REPORTS, self._pool, report, properties, mandatory=False))
        except Refusal as refusal:
            self._reports_there = False
            logger.warning("a report could not be sent: %s", refusal)

    def watch(self, notify: Callable[[], None]) -> AmqpWatch:
        """Return a watch over what is pushed."""
        return AmqpWatch(self, notify)

    def close(self) -> None:
        """Give up the connections, in good order: what was acknowledged is. The rest goes back by itself."""
        if self.consumer.line.is_open and self._out.is_open and not self._out.blocked:
            try:
                with self._closed_is_away():
                    self.pause()
                    self._give_back_what_waits_too_long()
            except BrokerUnavailable:
                logger.debug("what waited here goes back with the connection")
        self.consumer.close()
        self._out.close()


def _copied(pushed: Pushed, *, headers: Mapping[str, Any] | None = None, eta: float = 0.0) -> Letter:
    return Letter(pushed.queue, pushed.body, _changed(pushed.properties, headers or {}), eta)


def _kept_copy(pushed: Pushed, place: str, headers: Mapping[str, Any]) -> Parcel:
    """Return what goes on being held in a message's place; it has begun, should it ever come back."""
    changed = _changed(pushed.properties, {SUSPECT_HEADER: True, **headers})
    changed.delivery_mode = 2
    return Parcel("", place, pushed.body, changed)


def _changed(properties: Any, headers: Mapping[str, Any]) -> Any:
    """Return properties for a copy, with headers added."""
    changed = copy.copy(properties)
    changed.user_id = None  # it would have to be ours
    kept = {name: value for name, value in (properties.headers or {}).items() if name not in _NO_PLACE}
    changed.headers = {**kept, **headers}
    return changed


def _undone(settlements: Sequence[Settlement], settled: Sequence[bool | None]) -> list[Settlement]:
    """Return those that have to be said again."""
    return [each for each, done in zip(settlements, settled, strict=True) if done is None]


def _sendings(sendings: Sequence[Sending]) -> tuple[list[_Job], dict[str, str]]:
    """Return what is to be sent, and by token why something cannot be."""
    jobs, refused = [], {}
    for each in sendings:
        try:
            jobs.append(_Job(each.token, [letter(publication) for publication in each.publications]))
        except MalformedMessage as error:
            refused[each.token] = str(error)
    return jobs, refused


def _unsent(job: _Job) -> str | None:
    """Return why a task's own messages were not sent: empty when they have to wait, None when they were."""
    if job.waits:
        return ""
    if job.missing:
        return f"there is no queue {job.missing[0].queue!r}: declare it, or have a worker consume it"
    if job.refused:
        return f"RabbitMQ does not take it: {job.refused[0][1]}"
    if job.rejected:
        return "a queue is full, or its node is away: it is rejected"
    return None
