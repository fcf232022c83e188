"""Facts about the probe: it counts what a worker is done with, in the worker's own exposition."""

from prometheus_client import CollectorRegistry, Counter, generate_latest

from muster_operator.dev.probe import Probe, ended_tasks
from waiting import wait_for


def test_ended_tasks_are_those_that_will_not_run_again():
    """Succeeded, failed, refused and expired ones, of all tasks and queues; retries and losses are not."""
    registry = CollectorRegistry()
    for name, count in (("succeeded", 1_000_000), ("failed", 2), ("rejected", 3), ("expired", 4)):
        counter = Counter(f"muster_task_{name}", "…", ["pool", "queue", "task"], registry=registry)
        counter.labels("shop/mail", "mail", "send").inc(count)
    for name in ("retried", "lost"):
        counter = Counter(f"muster_task_{name}", "…", ["pool", "queue", "task"], registry=registry)
        counter.labels("shop/mail", 'a "quoted" queue', "send").inc(100)
    assert ended_tasks(generate_latest(registry).decode()) == 1_000_009
    assert ended_tasks("") == 0


def test_nobody_at_the_address_is_not_ready():
    """It goes on looking, and stops when told."""
    probe = Probe("127.0.0.1:9")
    assert not probe.ready
    probe.stop()
    wait_for(lambda: not probe._thread.is_alive(), what="the probe's thread has ended")
