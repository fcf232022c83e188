"""The messages in a worker's hands: what becomes of each, from its delivery to what is to be said at its end.

The loop calls it with what the broker delivered and with what the pool said of it, and carries out what it
leaves in `settle` and `begun`. It decides by `core`; it knows no broker, and asks the pool for nothing.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from muster import exceptions
from muster.core.admission import Admission, Bury, Defer, Discard, Run, admit, limits
from muster.core.effects import StoredResult
from muster.core.policy import Policy
from muster.core.prefetch import estimate
from muster.core.rate import Pace, ask_beside_others
from muster.core.settlement import after_loss, after_run
from muster.pools.base import Job, Lost, Outcome, Started
from muster.transports.base import Delivery, Settlement, Start, Verdict
from muster.wire.errors import MalformedMessage
from muster.wire.message import Peek, identify, peek
from muster.worker.outcomes import Results, log, task_logger
from muster.worker.settings import LoopSettings
from muster.worker.tally import Tally

logger = logging.getLogger("muster.worker")

MAX_REVOKED: Final = 50_000


class Held(msgspec.Struct):
    """A message in our hands."""

    delivery: Delivery
    message: Peek
    policy: Policy
    job: Job
    acked: bool = False
    """Acknowledged before its start (early ack)."""
    gone: bool = False
    """Its lease has ended, and that was said."""
    paced: bool = False
    """The broker has counted it for the rate of all workers."""

    @property
    def extra_cause(self) -> str:
        """What made a start of it one beyond the first; empty: it is the first."""
        if self.message.losses:
            return self.message.cause or "Unknown"
        return "Redelivered" if self.delivery.suspect else ""

    @property
    def asks(self) -> bool:
        """Whether the broker is asked for its start; else for its early ack."""
        return self.policy.acks_late or (self.policy.global_rate is not None and not self.paced)


class Hands:
    """See the module.

    `isolated`: the pool gives a job that runs alone a process of its own. `put_off` is called with the
    seconds after which a message that we put off is due.
    """

    def __init__(
        self,
        settings: LoopSettings,
        *,
        policies: Mapping[str, Policy],
        results: Results,
        tally: Tally,
        isolated: bool,
        put_off: Callable[[float], None],
    ) -> None:
        self._settings = settings
        self._policies = policies
        self._results = results
        self._tally = tally
        self._put_off_for = put_off
        self._isolated = isolated
        self._alone: set[int] = set()
        """Jobs that the pool has and that must be alone in its process."""
        self._next_number = 1
        self._paces: dict[str, Pace] = {}
        """Task → how far its rate in this worker is used up."""
        self._revoked: dict[str, None] = {}

        self.held: dict[int, Held] = {}
        """By the number of its job."""
        self.waiting: deque[int] = deque()
        """Not yet down as running (or not yet acked, for early acks)."""
        self.acking: list[int] = []
        """Asked for their early ack and not answered: it may have been carried out, so that nobody else has
        the message, and it is asked for in each turn until the broker says."""
        self.given_back: deque[Job] = deque()
        """Down as running, taken back from behind a long job: to be submitted again."""
        self.begun: list[StoredResult] = []
        """To be stored of tasks that have started."""
        self.settle: list[Settlement] = []
        """What is done; with a result that has to be stored before."""
        self.estimate: float | None = None
        """Of a task's runtime, seconds; see `core.prefetch`."""

    @property
    def coming(self) -> int:
        """How many the pool has yet to get."""
        return len(self.waiting) + len(self.acking) + len(self.given_back)

    @property
    def exclusive(self) -> bool:
        """Whether a job that must be alone in the pool's process runs, or comes next: nothing else begins.

        What the broker has down as running beside it would be blamed with it.
        """
        if self._isolated:
            return False
        return self._one_is_alone or bool(self.waiting and self.held[self.waiting[0]].job.alone)

    @property
    def _one_is_alone(self) -> bool:
        """Whether the pool has a job that must be alone, or gets it when its ack is answered."""
        asked = (self.held[number].job for number in self.acking if number in self.held)
        return bool(self._alone) or any(job.alone for job in asked)

    def leases(self) -> list[tuple[str, str]]:
        """Return (queue, tag) of those whose lease is to be renewed."""
        return [(h.delivery.queue, h.delivery.tag) for h in self.held.values() if not (h.acked or h.gone)]

    def revoke(self, task_ids: list[str]) -> None:
        """Note that these tasks shall not start."""
        self._revoked.update(dict.fromkeys(task_ids))
        while len(self._revoked) > MAX_REVOKED:
            del self._revoked[next(iter(self._revoked))]

    def leases_gone(self, tags: frozenset[str]) -> None:
        """Note that these are somebody else's now."""
        for number, held in list(self.held.items()):
            if held.delivery.tag not in tags or number in self.acking:  # our own ack may have taken it away
                continue
            if number in self.waiting:
                self.waiting.remove(number)
                self.leave_to_others(number)
            else:
                held.gone = True
                logger.warning(
                    "the lease of %s[%s] ended before it could be renewed: it will run again",
                    held.message.task,
                    held.message.id,
                )

    def leave_to_others(self, number: int) -> None:
        """Drop one that was to start and is not ours any more."""
        held = self.held.pop(number)
        logger.warning(
            "the lease of %s[%s] ended before it started here: it is left to whoever takes it next",
            held.message.task,
            held.message.id,
        )

    # deliveries

    def admit(self, delivery: Delivery, now: float) -> Job | None:
        """Decide on a delivery; `now` is the broker's. Returns the job when it can go to the pool at once."""
        raw = delivery.raw
        if not delivery.again:
            taken = self._tally.taken
            taken[delivery.queue] = taken.get(delivery.queue, 0) + 1
        try:
            if len(raw) > self._settings.max_message_bytes:
                raise MalformedMessage(
                    "OversizeMessage",
                    f"{len(raw)} bytes; the limit is {self._settings.max_message_bytes}: put the data into "
                    "a store and send its address",
                )
            message = peek(raw)
        except MalformedMessage as error:
            self._bury_malformed(delivery, error)
            return None
        admission: Admission = admit(
            message,
            policy=self._policies.get(message.task),
            now=now,
            revoked=self._revoked,
            delivery_limit=self._delivery_limit(delivery.queue),
        )
        if type(admission) is Run:
            number = self._next_number
            self._next_number += 1
            policy = admission.policy
            soft, hard = limits(message, policy)
            job = Job(number, delivery.queue, raw, soft, hard, admission.alone or delivery.suspect)
            held = Held(delivery, message, policy, job)
            if delivery.running and policy.acks_late and policy.global_rate is None:
                if policy.rate is not None and not self._may_start(held, now):
                    return None
                self.held[number] = held
                return job
            self.held[number] = held
            self.waiting.append(number)
        else:
            self._refuse(delivery, message, admission)
        return None

    def _delivery_limit(self, queue: str) -> int:
        return self._settings.delivery_limits.get(queue, self._settings.delivery_limit)

    def _refuse(self, delivery: Delivery, message: Peek, admission: Admission) -> None:
        match admission:
            case Defer(eta):
                self._defer(delivery, eta)
            case Discard(reason, text):
                self._tally.task(delivery.queue, message.task).expired += 1
                task_logger.info("%s[%s] is discarded: %s", message.task, message.id, text)
                result = self._results.of_failure(
                    message, None, "REVOKED", exceptions.TaskRevokedError(reason.lower())
                )
                self._say(delivery, Verdict.ACK, result=result)
            case Bury(reason, text, error):
                kind = getattr(exceptions, error, exceptions.TaskError)
                result = self._results.of_failure(message, None, "FAILURE", kind(text))
                self._bury(delivery, reason, text, message, result)

    def _bury(
        self,
        delivery: Delivery,
        reason: str,
        text: str,
        message: Peek | None = None,
        result: StoredResult | None = None,
    ) -> None:
        what = "a message" if message is None else f"{message.task}[{message.id}]"
        logger.error("%s of queue %s goes to its dead letters: %s: %s", what, delivery.queue, reason, text)
        self._say(delivery, Verdict.DEAD, reason=reason, text=text, result=result)

    def _bury_malformed(self, delivery: Delivery, error: MalformedMessage) -> None:
        """Bury a message that cannot be read; who waits for its result is told, where its id is known."""
        message, result = identify(delivery.raw), None
        if message is not None:
            result = self._results.of_failure(message, None, "FAILURE", exceptions.TaskError(str(error)))
        self._bury(delivery, error.reason, str(error), message, result)

    def refuse(self, delivery: Delivery) -> None:
        """Give a delivery back as it came: it came too late for us."""
        self._say(delivery, Verdict.RETURN)

    def _say(
        self,
        delivery: Delivery,
        verdict: Verdict,
        *,
        reason: str = "",
        text: str = "",
        result: StoredResult | None = None,
    ) -> None:
        self.settle.append(
            Settlement(
                tag=delivery.tag,
                queue=delivery.queue,
                verdict=verdict,
                reason=reason,
                text=text,
                result=result,
            )
        )

    # starts

    def to_start(self, room: int, now: float) -> list[int]:
        """Return so many of those that wait, taking them off the list; `now` by the broker's clock."""
        starting = []
        for number in self._next(room):
            held = self.held[number]
            if held.policy.rate is None or held.paced or self._may_start(held, now):
                starting.append(number)
            else:
                del self.held[number]
        return starting

    def _next(self, room: int) -> list[int]:
        """Take so many of those that wait off the list; one that must be alone when the pool is empty."""
        if self._isolated:
            return [self.waiting.popleft() for _ in range(max(0, min(room, len(self.waiting))))]
        if self._one_is_alone:
            return []
        others = len(self.held) - len(self.waiting)
        taken: list[int] = []
        while self.waiting and len(taken) < room:
            alone = self.held[self.waiting[0]].job.alone
            if alone and (others or taken):
                break
            taken.append(self.waiting.popleft())
            if alone:
                break
        return taken

    def _may_start(self, held: Held, now: float) -> bool:
        """Ask the task's rate in this worker; one that has to wait does so on the broker."""
        task = held.message.task
        assert held.policy.rate is not None
        self._paces[task], until = ask_beside_others(held.policy.rate, self._paces.get(task, _NO_PACE), now)
        if until:
            self._defer(held.delivery, until)
            self._wait_for_rate(held, until - now)
        return not until

    def _defer(self, delivery: Delivery, eta: float) -> None:
        self.settle.append(Settlement(tag=delivery.tag, queue=delivery.queue, verdict=Verdict.DEFER, eta=eta))

    def _wait_for_rate(self, held: Held, seconds: float) -> None:
        self._tally.task(held.delivery.queue, held.message.task).rate_limited += 1
        self._put_off_for(seconds)

    def put_off(self, number: int, seconds: float) -> None:
        """Let go of one that waits on the broker for its rate."""
        self._wait_for_rate(self.held.pop(number), seconds)

    def start(self, number: int) -> Start:
        """Return what the broker is asked before a job is handed over."""
        held = self.held[number]
        extra = ""
        if cause := held.extra_cause:
            extra = msgspec.json.encode([held.delivery.queue, held.message.task, cause]).decode()
        rate = held.policy.global_rate
        return Start(held.delivery.tag, held.delivery.queue, extra, held.message.task if rate else "", rate)

    def early_ack(self, number: int) -> Settlement:
        """Return what the broker is told before a job with an early ack is handed over."""
        delivery = self.held[number].delivery
        return Settlement(tag=delivery.tag, queue=delivery.queue, verdict=Verdict.ACK_EARLY)

    def may_run(self, number: int) -> Job | None:
        """Note that the broker lets it start. Returns the job, unless its early ack has yet to follow."""
        held = self.held[number]
        if held.policy.acks_late:
            if cause := held.extra_cause:
                counts = self._tally.task(held.delivery.queue, held.message.task).extra
                counts[cause] = counts.get(cause, 0) + 1
            return self._handed(number)
        held.paced = True
        self.waiting.appendleft(number)
        return None

    def acked(self, number: int) -> Job:
        """Note that its early ack was carried out, and return the job."""
        self.held[number].acked = True
        return self._handed(number)

    def _handed(self, number: int) -> Job:
        job = self.held[number].job
        if job.alone and not self._isolated:
            self._alone.add(number)
        return job

    def _out(self, number: int) -> Held | None:
        """Take one out of our hands that the pool is done with."""
        self._alone.discard(number)
        return self.held.pop(number, None)

    # what the pool says

    def started(self, event: Started) -> None:
        """Note that a task has begun."""
        held = self.held.get(event.number)
        result = None if held is None else self._results.of(held.message, "STARTED", event.document)
        if result is not None:
            self.begun.append(result)

    def finished(self, outcome: Outcome) -> None:
        """Decide on a message whose task has ended."""
        held = self._out(outcome.number)
        if held is None:
            return
        self.estimate = estimate(self.estimate, outcome.runtime_seconds)
        message, delivery = held.message, held.delivery
        self._tally.task(delivery.queue, message.task).ran(outcome.state, outcome.runtime_seconds)
        settled = after_run(outcome.state, outcome.reason, held.policy)
        result = None
        if outcome.document and settled.store:
            status = "FAILURE" if outcome.state == "REJECTED" else outcome.state
            result = self._results.of(message, status, outcome.document)
        elif settled.error:
            kind = getattr(exceptions, settled.error)
            result = self._results.of_failure(message, held.policy, "FAILURE", kind(outcome.text))
        self.settle.append(
            Settlement(
                tag=delivery.tag,
                queue=delivery.queue,
                verdict=Verdict.ACKED if held.acked else Verdict[settled.verdict],
                reason=settled.reason,
                text=outcome.text if settled.reason else "",
                result=result,
                publish=outcome.publish,
            )
        )
        log(message, outcome)

    def lost(self, lost: Lost) -> None:
        """Decide on a message whose task ended with its process."""
        held = self._out(lost.number)
        if held is None:
            return
        message, delivery = held.message, held.delivery
        self._tally.task(delivery.queue, message.task).lost += 1
        settled = after_loss(
            by_limit=lost.by_limit,
            losses=message.losses,
            delivery_limit=self._delivery_limit(delivery.queue),
            policy=held.policy,
        )
        logger.error(
            "%s[%s]: %s%s",
            message.task,
            message.id,
            lost.text,
            "; it will run again" if settled.verdict == "LOST" else "",
        )
        result = None
        if settled.error:
            kind = getattr(exceptions, settled.error)
            result = self._results.of_failure(message, held.policy, "FAILURE", kind(lost.text))
        verdict = Verdict.ACKED if held.acked else Verdict[settled.verdict]
        self._say(delivery, verdict, reason=settled.reason, text=lost.text, result=result)

    def returned(self, number: int, *, draining: bool) -> Job | None:
        """Decide on one that the pool has not begun. Returns the job when it has to run here, and now."""
        held = self.held.get(number)
        if held is None:
            return None
        limited = held.policy.rate is not None or held.policy.global_rate is not None
        if (draining or limited) and not held.acked:  # a limited one starts when its rate allows it
            self._give_back(number)
        elif draining:  # it was acknowledged early, so there is no other place for it
            return held.job
        else:
            self.given_back.append(held.job)
        return None

    # the end

    def give_back_waiting(self) -> None:
        """Give back what the pool has not got."""
        for number in [*self.waiting, *(job.number for job in self.given_back)]:
            self._give_back(number)
        self.waiting.clear()
        self.given_back.clear()

    def _give_back(self, number: int) -> None:
        held = self._out(number)
        assert held is not None
        self._say(held.delivery, Verdict.RETURN)

    def give_up(self, cause: str) -> None:
        """Let go of everything: what runs is lost."""
        for number in list(self.held):
            held = self.held.pop(number)
            logger.warning("%s[%s] is given up (%s)", held.message.task, held.message.id, cause)
            if not held.acked:
                self._say(held.delivery, Verdict.LOST, reason=cause)


_NO_PACE: Final = Pace()
