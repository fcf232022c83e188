"""The Redis transport: Celery's queues, with claims that cannot be lost.

Every change is one Lua script (`lua/`), so a message is always in exactly one place. The loop's calls go
over one connection; each list that is watched (`redis_watch`) has one more. Needs Redis 6.2.

Facts that shaped it: scores of Celery's
`unacked_index` are times of claims, so renewing ours keeps Celery's workers from restoring them, and a
score in the future lets a message wait for its ETA.
"""

import hashlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final

import msgspec
import redis

from muster.core.age import Age, Track, age, follow, greatest
from muster.core.effects import Publication, StoredResult
from muster.redis_client import new_client, outage, place_of
from muster.settings.environment import DeadLetter
from muster.transports.base import (
    Delivery,
    QueueDepth,
    ServerFacts,
    Settlement,
    Start,
    Tick,
    Ticked,
    Turn,
    Turned,
    Verdict,
)
from muster.transports.redis_watch import Claim, RedisWatch
from muster.wire.keys import PRIORITY_STEPS, RedisKeys, priority_step
from muster.wire.lua import fragment

SELDOM_SECONDS: Final = 60.0
"""How often the claims of Celery's workers and the age of dead letters are looked at."""
RESTED_SECONDS: Final = 1.0
MAX_CLAIM: Final = 1000
"""Lua cannot unpack more than some 8,000 values at once."""
TRACKED_MOST: Final = 100_000
"""How many messages that have entered between two readings are counted; behind more of them the age of the
oldest is tracked anew. Counting costs the server what their entering has cost, or less."""

_pack = msgspec.msgpack.Encoder().encode

# in one script with the time: an id noted under an earlier time than some worker's tick is never seen by it
_REVOKE: Final = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
for _, id in ipairs(ARGV) do
  redis.call('ZADD', KEYS[1], string.format('%.6f', now), id)
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 7 * 86400)
"""

# claims that are not ours and older than a time: {tag, score, entry, …}
_OLD_CLAIMS: Final = """
local found = {}
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, 100)
for i = 1, #old, 2 do
  local entry = string.sub(old[i], 1, 7) ~= 'muster:' and redis.call('HGET', KEYS[2], old[i])
  if entry then
    for _, value in ipairs({old[i], old[i + 1], entry}) do found[#found + 1] = value end
  end
end
return found
"""

# a place that is something else is left alone: a message that is to go there says so, and why
_END_DEAD_LETTERS: Final = """
for i, key in ipairs(KEYS) do redis.pcall('XTRIM', key, 'MINID', ARGV[i]) end
"""


def _script(name: str, *fragments: str) -> str:
    own = files(__package__).joinpath("lua")
    return "\n".join(
        [own.joinpath("common.lua").read_text(), *fragments, own.joinpath(f"{name}.lua").read_text()]
    )


class _Own:
    """What one process has of a server; nothing is connected before it is used."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.connection: Any = client.connection_pool.make_connection()
        self.used_at = 0.0
        self.lock = threading.Lock()
        """Held while the connection has a question open."""


class Server:
    """One Redis database with our scripts, for any thread. Reconnects by itself; survives a fork.

    `for_tasks`: what every task costs goes by `call`, over one connection of ours, since redis-py's client
    adds more to a round trip than its connection takes. All else goes by `client`.
    """

    def __init__(
        self, url: str, keys: RedisKeys, options: dict[str, Any] | None = None, *, for_tasks: bool = False
    ) -> None:
        self.url = url
        self.keys = keys
        self.place = place_of(url)
        self._options = options or {}
        self._for_tasks = for_tasks
        self._owned: dict[int, _Own] = {}
        self._scripts: dict[str, tuple[str, str]] = {}

    def new_client(self, **changes: Any) -> redis.Redis:
        """Return a client of its own."""
        return new_client(self.url, **{**self._options, **changes})

    @property
    def _own(self) -> _Own:
        pid = os.getpid()
        own = self._owned.get(pid)
        if own is None:
            # of two threads at once one wins, without a lock, which a fork might leave locked
            own = self._owned.setdefault(pid, _Own(self.new_client()))
            for other in [other for other in self._owned if other != pid]:
                self._owned.pop(other, None)
        return own

    @property
    def client(self) -> redis.Redis:
        """The client of this process; a child after a fork gets one of its own."""
        return self._own.client

    def call(self, *words: Any) -> Any:
        """Send one command and return its answer as it came. Raises redis-py's errors."""
        own = self._own
        connection = own.connection
        with own.lock:
            now = time.monotonic()
            if now - own.used_at > RESTED_SECONDS:
                _drop_if_closed(connection)
            own.used_at = now
            try:
                connection.send_command(*words)
                return connection.read_response()
            except redis.ResponseError:
                raise
            except BaseException:  # interrupted between the two, its answer would be taken for the next one's
                connection.disconnect()
                raise

    def text(self, name: str, *fragments: str) -> str:
        """Return the text of one of our scripts."""
        return self._script(name, *fragments)[0]

    def command(self, name: str, args: Any, *fragments: str) -> tuple[Any, ...]:
        """Return the command that runs one of our scripts, if the server has it."""
        _, sha = self._script(name, *fragments)
        return ("EVALSHA", sha, 0, *self._argv(args))

    def run(self, name: str, args: Any, *fragments: str) -> Any:
        """Run one of our scripts."""
        text, sha = self._script(name, *fragments)
        argv = self._argv(args)
        send = self.call if self._for_tasks else self.client.execute_command
        try:
            return send("EVALSHA", sha, 0, *argv)
        except redis.exceptions.NoScriptError:  # new to this server, or to this life of it
            return send("EVAL", text, 0, *argv)

    def run_each(self, name: str, calls: Iterable[tuple[Any, Sequence[bytes]]]) -> list[Any]:
        """Run one of our scripts for each (args, further ARGV), in one round trip; it may change nothing.

        Others have their turn between two of them.
        """
        text, sha = self._script(name)
        argvs = [(*self._argv(args), *more) for args, more in calls]
        replies = self._evalsha_each(sha, argvs)
        if any(isinstance(reply, redis.exceptions.NoScriptError) for reply in replies):
            self.client.script_load(text)
            replies = self._evalsha_each(sha, argvs)
        for reply in replies:
            if isinstance(reply, redis.RedisError):  # as it is: a pipeline's own would quote all of ARGV
                raise reply
        return replies

    def _evalsha_each(self, sha: str, argvs: Sequence[tuple[Any, ...]]) -> list[Any]:
        pipeline = self.client.pipeline(transaction=False)
        for argv in argvs:
            pipeline.evalsha(sha, 0, *argv)
        return pipeline.execute(raise_on_error=False)

    def _script(self, name: str, *fragments: str) -> tuple[str, str]:
        """Return a script and the name that Redis gives it."""
        if name not in self._scripts:
            text = _script(name, *fragments)
            self._scripts[name] = (text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
        return self._scripts[name]

    def _argv(self, args: Any) -> tuple[str | bytes, ...]:
        return self.keys.prefix, self.keys.unacked, self.keys.unacked_index, _pack(args)

    def close(self) -> None:
        """Give up the connections."""
        own = self._owned.pop(os.getpid(), None)
        if own is not None:
            own.connection.disconnect()
            own.client.close()


def _drop_if_closed(connection: Any) -> None:
    """See to it that a connection which the server has closed meanwhile is made anew by the next command."""
    if connection._sock is None:  # noqa: SLF001 - older redis-py has no other name for it
        return
    try:
        closed = connection.can_read(0)  # nothing was asked, so all there is to read is the end
    except (redis.RedisError, OSError):
        closed = True
    if closed:
        connection.disconnect()


def _tag(publication: Publication) -> str:
    return f"muster:{priority_step(publication.priority)}:client:{uuid.uuid4().hex}"


def publication_args(publication: Publication) -> tuple[str, str, str, float, str]:
    """Return the arguments of `publish` in lua/common.lua."""
    return (
        publication.queue,
        publication.raw.decode(),  # as text: Redis' MessagePack knows no bytes before 7.2
        str(priority_step(publication.priority)),
        publication.eta,
        _tag(publication) if publication.eta else "",
    )


def _start_args(start: Start) -> tuple[Any, ...]:
    if start.rate is None:
        return (start.tag, start.queue, start.extra_run)
    rate = start.rate
    return (
        start.tag,
        start.queue,
        start.extra_run,
        start.task,
        rate.interval_seconds,
        rate.tolerance_seconds,
    )


class RedisTransport:
    """A worker's side; see `muster.transports.base.Transport`.

    `results` are the keys of the result store when it is the same database (then a turn stores results in
    the same script), else None.
    """

    def __init__(
        self,
        server: Server,
        *,
        queues: Sequence[str],
        worker: str,
        pool: str,
        lease_seconds: float,
        dead_letters: Mapping[str, DeadLetter],
        results: RedisKeys | None = None,
        visibility_timeout_seconds: float = 3600.0,
    ) -> None:
        self._server = server
        self._visibility_timeout = visibility_timeout_seconds
        self._seldom_at = time.monotonic()
        self._queues = list(queues)
        self._worker = worker
        self._pool = pool
        self._lease = lease_seconds
        self._dead = {name: dead_letters.get(name) or DeadLetter(name=f"{name}.dead") for name in queues}
        self._results = results
        # a restarted container has the worker's name again, and must not name its claims as the one before
        self._first = self._next = time.time_ns() // 1000
        self._watch: RedisWatch | None = None

    def turn(self, turn: Turn) -> Turned:
        """Carry out settlements and sendings, then starts, then the claim, in one script."""
        claim = min(turn.claim, MAX_CLAIM)
        args = self._turn_args(turn, claim)
        with outage(self._server.place):
            reply = self._server.run("turn", args, fragment("result"))
        first = self._next
        # claims whose answer got lost may have used numbers too: never use one twice
        self._next += claim
        return Turned(
            settled=[bit == 49 for bit in reply[1]],
            started=[bit == 49 for bit in reply[2]],
            put_off={tag.decode(): float(until) for tag, until in zip(*[iter(reply[3])] * 2, strict=True)},
            deliveries=self._deliveries(reply, first),
            now=float(reply[0]),
        )

    def before_claims(self) -> tuple[Any, ...]:
        """Return the command that gives the server the script."""
        return ("SCRIPT", "LOAD", self._server.text("turn", fragment("result")))

    def claim_later(self, limit: int) -> Claim:
        """Return a claim for `RedisWatch`: a turn of nothing else."""
        limit = min(limit, MAX_CLAIM)
        command = self._server.command("turn", self._turn_args(Turn(run=limit), limit), fragment("result"))
        first = self._next
        self._next += limit
        return Claim(limit, first, command)

    def claimed(self, claim: Claim, reply: Any) -> tuple[list[Delivery], float]:
        """Return what its answer brought, and when it was claimed."""
        return self._deliveries(reply, claim.first), float(reply[0])

    def _turn_args(self, turn: Turn, claim: int) -> tuple[Any, ...]:
        return (
            [self._settlement(settlement) for settlement in turn.settle],
            [_start_args(start) for start in turn.start],
            claim,
            turn.run,
            self._worker,
            self._next,
            self._lease,
            self._queues,
            [
                (sending.token, [publication_args(publication) for publication in sending.publications])
                for sending in turn.send
            ],
            [self._result(stored) for stored in turn.store],
        )

    def _deliveries(self, reply: Any, first: int) -> list[Delivery]:
        deliveries = []
        for position in range(4, len(reply), 3):
            index, step, raw = reply[position : position + 3]
            queue = self._queues[abs(index) - 1]
            tag = f"muster:{step.decode()}:{self._worker}:{first + (position - 4) // 3}"
            deliveries.append(Delivery(tag, queue, raw, index > 0))
            self._watch_step(queue, step)
        return deliveries

    def _watch_step(self, queue: str, step: bytes) -> None:
        """Watch a priority's list from its first message on: most are never used, and each costs a wait."""
        if step != b"0" and self._watch is not None:
            self._watch.add(self._server.keys.queue(queue, int(step)))

    def _settlement(self, settlement: Settlement) -> tuple[Any, ...]:
        stored = settlement.result
        result = self._result(stored) if stored is not None else ()
        return (
            settlement.tag,
            settlement.queue,
            int(settlement.verdict),
            settlement.reason,
            settlement.text,
            settlement.eta,
            result,
            [publication_args(publication) for publication in settlement.publish],
            self._dead_letters(settlement.queue) if settlement.verdict is Verdict.DEAD else (),
        )

    def _result(self, stored: StoredResult) -> tuple[Any, ...]:
        if self._results is None:
            return ()
        return (
            stored.task_id,
            stored.document.decode(),
            stored.status,
            stored.retries,
            stored.expires_seconds,
            self._results.result(stored.task_id),
        )

    def _dead_letters(self, queue: str) -> tuple[str, int, float]:
        place = self._dead[queue]
        return place.name, place.max_length, place.max_age

    def tick(self, tick: Tick) -> Ticked:
        """Renew leases, end expired ones of anybody, move due ETAs, report, read the mailbox."""
        renew: dict[str, list[str]] = {}
        for queue, tag in tick.renew:
            renew.setdefault(queue, []).append(tag)
        args = (
            list(renew.items()),
            (tick.report or b"").decode(),
            tick.revoked_after,
            self._worker,
            self._pool,
            self._lease,
            self._queues,
            tick.reconcile,
            self._first,
            tick.spare,
        )
        with outage(self._server.place):
            now, next_eta, commands, revoked, gone, steps = self._server.run("tick", args)
            if time.monotonic() >= self._seldom_at:
                self._seldom_at = time.monotonic() + SELDOM_SECONDS
                self.restore_foreign(float(now))
                self._end_dead_letters(float(now))
        for index, step in zip(*[iter(steps)] * 2, strict=True):
            self._watch_step(self._queues[index - 1], step)
        return Ticked(
            now=float(now),
            next_eta=float(next_eta) if next_eta else None,
            commands=commands,
            revoked=[task_id.decode() for task_id in revoked],
            gone=[tag.decode() for tag in gone],
            ready=bool(steps),
        )

    def restore_foreign(self, now: float) -> int:
        """Give back what Celery's workers hold for longer than their visibility timeout. Returns how many.

        Its own workers do the same (kombu's `restore_visible`); this is for when the last of them is gone.
        Only queues that we consume are looked at, and our own claims, which have leases, are not.
        """
        keys = self._server.keys
        old = self._server.call(
            "EVAL", _OLD_CLAIMS, 2, keys.unacked_index, keys.unacked, now - self._visibility_timeout
        )
        restored = 0
        for tag, score, entry in zip(*[iter(old)] * 3, strict=True):
            found = _redelivered(entry)
            if found is None or found[0] not in self._queues:
                continue
            queue, priority, message = found
            target = keys.queue(queue, priority_step(priority))
            restored += self._server.run("restore", (tag.decode(), score.decode(), target, message))
        return restored

    def _end_dead_letters(self, now: float) -> None:
        """Remove the dead letters that are too old: where no other joins them, nothing else does."""
        keys = [self._server.keys.dead(place.name) for place in self._dead.values()]
        oldest = [int(max(0.0, now - place.max_age) * 1000) for place in self._dead.values()]
        self._server.call("EVAL", _END_DEAD_LETTERS, len(keys), *keys, *oldest)

    def watch(self, notify: Callable[[], None]) -> RedisWatch:  # noqa: ARG002 - its caller looks
        """Return a watch over the base lists; a priority list joins when it has once been used."""
        connections = self._server.client.connection_pool
        self._watch = RedisWatch(connections.make_connection, self._server.call, self)
        for queue in self._queues:
            self._watch.add(self._server.keys.queue(queue))
        return self._watch

    def close(self) -> None:
        """Give up the connections."""
        if self._watch is not None:
            self._watch.close()
        self._server.close()


class RedisPublisher:
    """A client's side; see `muster.transports.base.Publisher`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def publish(self, publications: Sequence[Publication]) -> None:
        """Put messages into their queues: one variadic push for each list, a script when some must wait."""
        with outage(self._server.place):
            if any(publication.eta for publication in publications):
                self._server.run("publish", [publication_args(publication) for publication in publications])
                return
            lists: dict[str, list[bytes]] = {}
            for publication in publications:
                key = self._server.keys.queue(publication.queue, priority_step(publication.priority))
                lists.setdefault(key, []).append(publication.raw)
            if len(lists) == 1:
                [(key, raws)] = lists.items()
                self._server.call("LPUSH", key, *raws)
                return
            pipeline = self._server.client.pipeline(transaction=True)
            for key, raws in lists.items():
                pipeline.lpush(key, *raws)
            pipeline.execute()

    def close(self) -> None:
        """Give up the connection."""
        self._server.close()


class RedisObserver:
    """Reads queues and reports; see `muster.transports.base.Observer`."""

    def __init__(self, server: Server, dead_letters: dict[str, str] | None = None) -> None:
        self._server = server
        self.dead_letters: Mapping[str, str] = dead_letters or {}
        self._tracks: dict[tuple[str, int], Track] = {}
        """By queue and priority step, of the lists that were not empty when they were read last."""

    def depths(self, queues: Sequence[str], *, horizon_seconds: float) -> dict[str, QueueDepth]:
        """Return the depth of each queue, in one round trip."""
        calls = [
            (
                (queue, self.dead_letters.get(queue, f"{queue}.dead"), horizon_seconds, TRACKED_MOST),
                [self._newest(queue, step) for step in PRIORITY_STEPS],
            )
            for queue in queues
        ]
        if not calls:
            return {}
        with outage(self._server.place):
            replies = self._server.run_each("depth", calls)
        return {queue: self._depth(queue, *reply) for queue, reply in zip(queues, replies, strict=True)}

    def _newest(self, queue: str, step: int) -> bytes:
        track = self._tracks.get((queue, step))
        return track.newest if track is not None else b""

    def _depth(self, queue: str, now: bytes, counts: Sequence[int], lists: Sequence[Any]) -> QueueDepth:
        claimed, dead_claims, running, dead_runs, due, waiting, dead = counts
        ages = [
            self._age(queue, step, float(now), *seen)
            for step, seen in zip(PRIORITY_STEPS, lists, strict=True)
        ]
        return QueueDepth(
            ready=sum(seen[0] for seen in lists),
            claimed=claimed,
            running=running,
            expired=dead_claims + dead_runs,
            due=due,
            waiting=waiting,
            dead=dead,
            oldest=greatest(ages),
        )

    def _age(
        self,
        queue: str,
        step: int,
        now: float,
        length: int,
        newest: bytes | None,
        oldest: bytes | None,
        behind: int | None,
    ) -> Age | None:
        before = self._tracks.pop((queue, step), None)
        if newest is None or oldest is None:
            return None
        track = follow(before, newest=newest, length=length, behind=behind, now=now)
        self._tracks[queue, step] = track
        return age(oldest, track, now)

    def reports(self, pool: str, *, max_age_seconds: float) -> list[tuple[float, bytes]]:
        """Return (age in seconds, report) of the pool's workers."""
        with outage(self._server.place):
            pipeline = self._server.client.pipeline(transaction=False)
            pipeline.time()
            pipeline.hvals(self._server.keys.reports(pool))
            (seconds, micros), values = pipeline.execute()
        now = seconds + micros / 1e6
        found = []
        for value in values:
            at, _, report = value.partition(b" ")
            age = now - float(at)
            if age <= max_age_seconds:
                found.append((max(age, 0.0), report))
        return found

    def send(self, worker: str, control: bytes) -> None:
        """Put a control message into a worker's mailbox; unread it is gone after ten minutes."""
        key = self._server.keys.control(worker)
        with outage(self._server.place):
            pipeline = self._server.client.pipeline(transaction=True)
            pipeline.rpush(key, control)
            pipeline.expire(key, 600)
            pipeline.execute()

    def revoke(self, task_ids: Iterable[str]) -> None:
        """Tell every worker, at its next tick, that these tasks shall not run; kept for a week."""
        with outage(self._server.place):
            self._server.client.eval(_REVOKE, 1, self._server.keys.revoked, *task_ids)

    def server(self) -> ServerFacts:
        """Return version and memory policy; INFO tells both, and unlike CONFIG it is seldom forbidden."""
        with outage(self._server.place):
            server: Any = self._server.client.info("server")
            memory: Any = self._server.client.info("memory")
        return ServerFacts(
            type="Redis",
            version=str(server.get("redis_version", "")),
            eviction_policy=str(memory.get("maxmemory_policy", "")),
            max_memory_bytes=int(memory.get("maxmemory", 0)),
        )

    def remove_queue(self, queue: str, dead_letter: str) -> bool:
        """Remove a queue and its dead letters, in one step, if nothing of either is left."""
        with outage(self._server.place):
            return bool(self._server.run("remove_queue", (queue, dead_letter)))

    def extra_runs(self) -> dict[tuple[str, str, str], int]:
        """Return the starts beyond the first by (queue, task, cause)."""
        with outage(self._server.place):
            counts = self._server.client.hgetall(self._server.keys.extra_runs)
        return {tuple(msgspec.json.decode(field)): int(count) for field, count in counts.items()}

    def close(self) -> None:
        """Give up the connection."""
        self._server.close()


def _redelivered(entry: bytes) -> tuple[str, int, str] | None:
    """Return (queue, priority, message marked as redelivered) of an entry in Celery's `unacked` hash.

    None: it is not one, or was published to an exchange of its own, which only its own workers can look up.
    """
    try:
        message, exchange, routing_key = msgspec.json.decode(entry)
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
        priority = int(message["properties"].get("priority") or 0)
    except (msgspec.DecodeError, ValueError, TypeError, KeyError):
        return None
    if exchange:
        return None
    return routing_key, priority, msgspec.json.encode(message).decode()
