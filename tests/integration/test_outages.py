"""The broker is away for a moment, again and again, or for a minute: nobody has to be started again for it.

Workers of each pool and beat share one broker. What ran is read from the ledger: the tasks sent by a client,
and those that beat sent, whose ids plain arithmetic tells.
"""

import contextlib
from datetime import UTC, datetime, timedelta

import pytest

from beats import Beat
from ledger import Ledger
from muster import Muster
from muster.transports.connect import connect_observer, connect_schedules
from muster.wire.schedule import ScheduleEntry, tick_id
from waiting import stays, wait_for
from workers import Worker

POOLS = ["prefork", "threads", "solo"]


class Everybody:
    """A worker of each pool, a beat with one schedule, and a client."""

    def __init__(self, stack, url, ledger, period):
        self.ledger = ledger
        self.period = period
        self.since = datetime.now(UTC)
        self.sent = []
        self.app = stack.enter_context(contextlib.closing(Muster("client", broker=url, backend=url)))
        self.schedules = stack.enter_context(contextlib.closing(connect_schedules(url, scope="shop")))
        self.observer = stack.enter_context(contextlib.closing(connect_observer(url, {}, {})))
        environment = {"BROKER": url, "LEDGER": str(ledger.path)}
        self.workers = [
            stack.enter_context(Worker("ledger_app", pool, "-c", "2", **environment)) for pool in POOLS
        ]
        self.beat = stack.enter_context(Beat("--scope", "shop", "-b", url))
        self.schedules.put(
            [
                ScheduleEntry(
                    uid="u",
                    name="shop/u",
                    task="ledger.work",
                    queue="celery",
                    every_seconds=period.total_seconds(),
                    catch_up="All",
                    created_at=self.since,
                    since=self.since,
                )
            ]
        )
        self.wait_probes("/readyz", 200)

    def send(self, count, seconds):
        self.sent += [self.app.send_task("ledger.work", kwargs={"seconds": seconds}).id for _ in range(count)]

    def probes(self, path):
        return {each.get(path)[0] for each in (*self.workers, self.beat)}

    def wait_probes(self, path, status):
        wait_for(
            lambda: self.probes(path), until=lambda found: found == {status}, what=f"{path} {status} of all"
        )

    def ticks(self):
        """How many due times are settled."""
        record = self.schedules.runs(["u"]).get("u")
        at = None if record is None else record.settled_at
        return 0 if at is None else round((at - self.since) / self.period)

    def ended(self):
        return len(self.ledger.ends.keys() & self.sent)

    def wait_ended(self):
        wait_for(lambda: self.ended() >= len(self.sent), what="the end of all", timeout_seconds=90)

    def finish(self):
        """Stop beat once it has sent all that is due, and wait until nothing is left to do."""
        due = (datetime.now(UTC) - self.since) // self.period
        wait_for(lambda: self.ticks() >= due, what="all due ticks")
        assert self.beat.metric("muster_beat_missed_ticks_total") == 0
        self.beat.terminate()
        assert self.beat.wait() == 0
        self.sent += [
            tick_id("u", self.since + number * self.period) for number in range(1, self.ticks() + 1)
        ]
        self.wait_ended()
        wait_for(self.at_rest, what="nothing is in anybody's hands")

    def at_rest(self):
        depth = self.observer.depths(["celery"], horizon_seconds=0)["celery"]
        return not (depth.ready or depth.claimed or depth.running or depth.waiting)


@pytest.mark.soak("Restarts of the broker lose nothing and restart nobody")
def test_restarts_lose_nothing(own_redis_server, tmp_path, account, times):
    """Ten times the broker is killed and is back at once: the same processes go on, each task is recorded."""
    restarts = 10 * times
    with contextlib.ExitStack() as stack:
        everybody = Everybody(
            stack, own_redis_server.url, Ledger(tmp_path / "ledger"), timedelta(seconds=0.5)
        )
        for _ in range(restarts):
            before = everybody.ended()
            everybody.send(30, 0.02)
            wait_for(lambda b=before: everybody.ended() >= b + 5, what="they are at work")
            own_redis_server.kill9()
            own_redis_server.start()
            everybody.send(10, 0)
            everybody.wait_ended()
        everybody.wait_probes("/livez", 200)
        everybody.finish()
        settle(everybody, account, restarts=restarts)


@pytest.mark.soak("A long outage of the broker loses nothing and restarts nobody")
def test_a_long_outage_loses_nothing(own_redis_server, tmp_path, account, times):
    """Sixty seconds, twice a lease: all stay alive and say that they are not ready; tasks that ran are
    recorded, tasks that waited run, ticks that came due are sent, each once, and nobody's task runs again."""
    seconds = 60 * times
    with contextlib.ExitStack() as stack:
        everybody = Everybody(
            stack, own_redis_server.url, Ledger(tmp_path / "ledger"), timedelta(seconds=seconds / 60)
        )
        everybody.send(1200, 0.02)  # more than six slots may hold
        wait_for(lambda: everybody.ended() >= 5, what="they are at work")
        own_redis_server.kill9()
        everybody.wait_probes("/readyz", 503)
        stays(lambda: everybody.probes("/livez") == {200}, what="all are alive", seconds=seconds)
        assert everybody.ended() < 1200
        own_redis_server.start()
        everybody.wait_probes("/readyz", 200)
        everybody.finish()
        settle(everybody, account, outage_seconds=seconds)
        assert everybody.ledger.check(everybody.sent).extra_runs == 0


def settle(everybody, account, **figures):
    """Compare the ledger, the results and the broker's count with what was sent."""
    counted = sum(everybody.observer.extra_runs().values())
    account(everybody.ledger.check(everybody.sent), counted=counted, ticks=everybody.ticks(), **figures)
    assert [each.process.poll() for each in everybody.workers] == [None] * len(POOLS)
    states = {everybody.app.AsyncResult(task).state for task in everybody.sent}
    assert states == {"SUCCESS"}
