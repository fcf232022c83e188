"""Manifests of Muster's resources for tests: makers of the smallest valid ones, and all that is refused.

The unit tests hold `REFUSED` against the Python types and the end-to-end tests hold the same table against a
real API server, so that both refuse the same manifests with the same sentences.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]

API_VERSION = "muster.dev/v1beta1"


def task_queue(name: str = "mail", **spec: Any) -> Manifest:
    """A TaskQueue that names nothing but its broker."""
    return _manifest("TaskQueue", name, {"broker": {"secretRef": {"name": "broker"}}} | spec)


def worker_pool(name: str = "mail", **spec: Any) -> Manifest:
    """A WorkerPool on one queue with all defaults."""
    return _manifest("WorkerPool", name, {"image": "shop:1", "app": "shop.tasks", "queues": ["mail"]} | spec)


def schedule(name: str = "report", **spec: Any) -> Manifest:
    """A Schedule of one task; it says when only if `spec` does."""
    return _manifest("Schedule", name, {"task": "shop.tasks.report", "queue": "mail"} | spec)


def _manifest(kind: str, name: str, spec: Mapping[str, Any]) -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": name},
        "spec": copy.deepcopy(dict(spec)),
    }


EVERYTHING: tuple[Manifest, ...] = (
    task_queue(
        type="Quorum",
        queueName="mail",
        messageTTL="1h",
        maxLength=100000,
        overflow="DropHead",
        deadLetter={"queueName": "mail.dead", "maxAge": "7d", "maxLength": 1000},
        deliveryLimit=5,
        ha={"replicas": 3},
        consumerTimeout="2h",
        deletionPolicy="Retain",
    ),
    task_queue("post", type="Classic", maxPriority=9),
    worker_pool(
        queues=["mail", "default"],
        results={"secretRef": {"name": "results"}, "expires": "24h"},
        pool={
            "type": "prefork",
            "concurrency": 8,
            "autoscale": {"min": 2, "max": 8},
            "maxTasksPerChild": 1000,
            "maxMemoryPerChild": "300Mi",
            "maxAge": "24h",
        },
        delivery={"acks": "Late", "prefetch": 4, "lease": "30s", "rejectOnWorkerLost": True},
        limits={
            "softTimeLimit": "5m",
            "timeLimit": "6m",
            "rate": {"shop.tasks.send": "100/m"},
            "globalRate": {"shop.tasks.send": "1000/h"},
        },
        replicas=3,
        scaling={
            "mode": "Managed",
            "minReplicas": 0,
            "maxReplicas": 50,
            "target": {"utilization": 80, "latency": "5s"},
            "behavior": {
                direction: {
                    "stabilizationSeconds": 30,
                    "selectPolicy": "Min",
                    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
                }
                for direction in ("scaleUp", "scaleDown")
            },
            "floors": [
                {
                    "schedule": "0 8 * * 1-5",
                    "until": "0 18 * * mon-fri",
                    "timeZone": "Europe/Berlin",
                    "replicas": 5,
                }
            ],
            "fallback": {"after": "30s", "behavior": "AtLeast", "replicas": 2},
        },
        drain={"timeout": "10m"},
        paused=False,
        template={"spec": {"nodeSelector": {"disk": "fast"}}},
    ),
    schedule(
        args=[1, None, {"deep": [None]}],
        kwargs={"nothing": None},
        options={"priority": 5, "expires": "10m", "headers": {"tenant": "a"}},
        schedule="*/5 8-18 * * mon-fri",
        timeZone="Europe/Berlin",
        suspend=False,
        startingDeadlineSeconds=300,
        catchUp="Last",
        concurrencyPolicy="Allow",
    ),
    worker_pool("own", pool={"customPool": "shop.pools:Fibers"}),
    schedule("often", every="30s"),
    schedule("nightly", solar={"event": "sunset", "latitude": 52.5, "longitude": -13}),
)
"""Manifests that are valid and, together, use every field."""


@dataclass(frozen=True)
class Refused:
    """A manifest that nobody takes: at which field, and what its author reads."""

    id: str
    manifest: Manifest
    path: str
    sentence: str


_LONG = "a" * 64
_RESERVED = "must not begin with muster., unacked, _kombu., celery-task-meta-, celery-taskset-meta-, amq."
_CRON = "a cron line has five fields"
_WHEN = "exactly one of schedule, every and solar says when to run"
_FLOOR = {"schedule": "0 8 * * *", "until": "0 18 * * *", "replicas": 2}


REFUSED: tuple[Refused, ...] = (
    # TaskQueue
    *(
        Refused(
            f"queue named {name}",
            task_queue(queueName=name),
            "spec.queueName",
            f"the queue's name (spec.queueName, else metadata.name) {_RESERVED}",
        )
        for name in (
            "muster.reports",
            "unacked",
            "unacked_index",
            "_kombu.binding.x",
            "celery-task-meta-1",
            "celery-taskset-meta-1",
            "amq.direct",
        )
    ),
    Refused("queue named by its object", task_queue("muster.reports"), "spec.queueName", _RESERVED),
    Refused(
        "dead letters in a reserved place",
        task_queue(deadLetter={"queueName": "unacked"}),
        "spec.deadLetter.queueName",
        f"the dead letters' name {_RESERVED}",
    ),
    Refused(
        "dead letters in the queue",
        task_queue(deadLetter={"queueName": "mail"}),
        "spec.deadLetter.queueName",
        "dead letters need a queue of their own",
    ),
    Refused(
        "queue name with a blank",
        task_queue(queueName="my mail"),
        "spec.queueName",
        "a queue's name is made of",
    ),
    Refused(
        "queue name with a comma", task_queue(queueName="a,b"), "spec.queueName", "a queue's name is made of"
    ),
    Refused(
        "secret in capitals",
        task_queue(broker={"secretRef": {"name": "Broker"}}),
        "spec.broker.secretRef.name",
        "must be the name of an object",
    ),
    Refused(
        "members on Redis",
        task_queue(type="Redis", ha={}),
        "spec.ha",
        "ha is the number of copies that RabbitMQ keeps of a queue",
    ),
    Refused(
        "priorities of a quorum queue",
        task_queue(type="Quorum", maxPriority=9),
        "spec.maxPriority",
        "maxPriority is an argument of RabbitMQ's classic queues: set type: Classic",
    ),
    Refused(
        "priorities of no type",
        task_queue(maxPriority=9),
        "spec.maxPriority",
        "maxPriority is an argument of RabbitMQ's classic queues: set type: Classic",
    ),
    Refused(
        "reject without a length",
        task_queue(overflow="RejectPublish"),
        "spec.overflow",
        "RejectPublish refuses messages beyond maxLength",
    ),
    Refused(
        "messages that die at once", task_queue(messageTTL="10ms"), "spec.messageTTL", "must be at least 1s"
    ),
    # WorkerPool
    Refused("pool with a long name", worker_pool(_LONG), "", "at most 63 characters"),
    Refused(
        "a queue named twice",
        worker_pool(queues=["mail", "default", "mail"]),
        "spec.queues",
        "queues names a TaskQueue twice",
    ),
    Refused(
        "a queue that is no name",
        worker_pool(queues=["Mail!"]),
        "spec.queues[0]",
        "must be the name of a TaskQueue",
    ),
    Refused(
        "two ways to run",
        worker_pool(pool={"type": "threads", "customPool": "a.b:C"}),
        "spec.pool.customPool",
        "customPool stands instead of type",
    ),
    Refused(
        "custom pool without a class",
        worker_pool(pool={"customPool": "a.b"}),
        "spec.pool.customPool",
        "customPool is written module:Class",
    ),
    Refused(
        "solo with two slots",
        worker_pool(pool={"type": "solo", "concurrency": 2}),
        "spec.pool.concurrency",
        "a solo worker runs one task at a time",
    ),
    Refused(
        "solo with autoscale",
        worker_pool(pool={"type": "solo", "autoscale": {"min": 1, "max": 2}}),
        "spec.pool.concurrency",
        "a solo worker runs one task at a time",
    ),
    Refused(
        "autoscale upside down",
        worker_pool(pool={"autoscale": {"min": 3, "max": 2}}),
        "spec.pool.autoscale.min",
        "autoscale.min must not be above autoscale.max",
    ),
    Refused(
        "concurrency outside autoscale",
        worker_pool(pool={"concurrency": 9, "autoscale": {"min": 2, "max": 8}}),
        "spec.pool.concurrency",
        "concurrency is where autoscale begins",
    ),
    Refused(
        "threads with children",
        worker_pool(pool={"type": "threads", "maxTasksPerChild": 10}),
        "spec.pool.type",
        "only prefork has these",
    ),
    Refused(
        "memory without a unit",
        worker_pool(pool={"maxMemoryPerChild": "300 MB"}),
        "spec.pool.maxMemoryPerChild",
        "a size is written like 300Mi",
    ),
    Refused(
        "prefetch in words",
        worker_pool(delivery={"prefetch": "Many"}),
        "spec.delivery.prefetch",
        "prefetch is Auto or a number",
    ),
    Refused(
        "prefetch of nothing",
        worker_pool(delivery={"prefetch": 0}),
        "spec.delivery.prefetch",
        "prefetch is Auto or a number",
    ),
    Refused(
        "lease of two hours",
        worker_pool(delivery={"lease": "2h"}),
        "spec.delivery.lease",
        "must be at most 1h",
    ),
    Refused(
        "lease of nothing",
        worker_pool(delivery={"lease": "0s"}),
        "spec.delivery.lease",
        "must be at least 1s",
    ),
    Refused(
        "killed before told",
        worker_pool(limits={"softTimeLimit": "6m", "timeLimit": "360s"}),
        "spec.limits.softTimeLimit",
        "softTimeLimit must be shorter than timeLimit",
    ),
    Refused(
        "threads with a hard limit",
        worker_pool(pool={"type": "threads"}, limits={"timeLimit": "1m"}),
        "spec.limits",
        "threads and solo have none: use prefork",
    ),
    Refused(
        "solo with a soft limit",
        worker_pool(pool={"type": "solo"}, limits={"softTimeLimit": "1m"}),
        "spec.limits",
        "threads and solo have none: use prefork",
    ),
    Refused(
        "rate without a number",
        worker_pool(limits={"rate": {"t": "often"}}),
        "spec.limits.rate[t]",
        "a rate is a number a second, minute or hour",
    ),
    Refused(
        "grace below the hard limit",
        worker_pool(limits={"timeLimit": "1d"}, drain={"timeout": "23h59m"}),
        "spec.drain.timeout",
        "drain.timeout must be at least limits.timeLimit",
    ),
    Refused(
        "minimum above maximum",
        worker_pool(scaling={"minReplicas": 11}),
        "spec.scaling.minReplicas",
        "minReplicas must not be above maxReplicas",
    ),
    Refused(
        "floor above the ceiling",
        worker_pool(scaling={"maxReplicas": 1, "floors": [_FLOOR]}),
        "spec.scaling.floors",
        "a floor's replicas must not be above maxReplicas",
    ),
    Refused(
        "floor without a length",
        worker_pool(scaling={"floors": [_FLOOR | {"until": "0 8 * * *"}]}),
        "spec.scaling.floors[0].until",
        "until must name another time than schedule",
    ),
    Refused(
        "floor in no zone",
        worker_pool(scaling={"floors": [_FLOOR | {"timeZone": "+02:00"}]}),
        "spec.scaling.floors[0].timeZone",
        "timeZone is a name of the time zone database",
    ),
    Refused(
        "fallback above the ceiling",
        worker_pool(scaling={"fallback": {"behavior": "Static", "replicas": 11}}),
        "spec.scaling.fallback.replicas",
        "fallback.replicas must not be above maxReplicas",
    ),
    Refused(
        "fallback without a size",
        worker_pool(scaling={"fallback": {"behavior": "Static"}}),
        "spec.scaling.fallback.behavior",
        "Static and AtLeast name a size",
    ),
    Refused(
        "floors of a fixed pool",
        worker_pool(scaling={"mode": "Fixed", "floors": [_FLOOR]}),
        "spec.scaling.floors",
        "floors hold in mode Managed only",
    ),
    Refused(
        "fallback of an external pool",
        worker_pool(scaling={"mode": "External", "fallback": {"behavior": "AtLeast", "replicas": 1}}),
        "spec.scaling.fallback.behavior",
        "fallback holds in mode Managed only",
    ),
    Refused(
        "latency of a blink",
        worker_pool(scaling={"target": {"latency": "99ms"}}),
        "spec.scaling.target.latency",
        "must be at least 100ms",
    ),
    # Schedule
    Refused("no time at all", schedule(), "spec", _WHEN),
    Refused("two times", schedule(schedule="@hourly", every="1h"), "spec", _WHEN),
    Refused(
        "three times",
        schedule(schedule="@hourly", every="1h", solar={"event": "sunset", "latitude": 0, "longitude": 0}),
        "spec",
        _WHEN,
    ),
    Refused("faster than a second", schedule(every="999ms"), "spec.every", "must be at least 1s"),
    Refused("cron line of four fields", schedule(schedule="* * * *"), "spec.schedule", _CRON),
    Refused(
        "cron line with a zone",
        schedule(schedule="TZ=Europe/Berlin 0 8 * * *"),
        "spec.schedule",
        "the zone stands in timeZone",
    ),
    Refused(
        "zone as TZ",
        schedule(schedule="@daily", timeZone="TZ=UTC"),
        "spec.timeZone",
        "timeZone is a name of the time zone database",
    ),
)
"""Every impossibility of the resources at least once."""


@dataclass(frozen=True)
class RefusedChange:
    """A change of a valid manifest that nobody takes."""

    id: str
    before: Manifest
    after: Manifest
    path: str
    sentence: str


REFUSED_CHANGES: tuple[RefusedChange, ...] = (
    RefusedChange(
        "another name",
        task_queue(queueName="a"),
        task_queue(queueName="b"),
        "spec.queueName",
        "queueName cannot change",
    ),
    RefusedChange(
        "a name beside the object's",
        task_queue(),
        task_queue(queueName="b"),
        "spec.queueName",
        "queueName cannot change",
    ),
    RefusedChange(
        "no name any more",
        task_queue(queueName="b"),
        task_queue(),
        "spec.queueName",
        "queueName cannot change",
    ),
    RefusedChange(
        "another type",
        task_queue(type="Quorum"),
        task_queue(type="Classic"),
        "spec.type",
        "type cannot change once set",
    ),
    RefusedChange(
        "no type any more",
        task_queue(type="Quorum"),
        task_queue(),
        "spec.type",
        "type cannot change once set",
    ),
)

ALLOWED_CHANGES: tuple[tuple[Manifest, Manifest], ...] = (
    (task_queue(), task_queue(queueName="mail")),
    (task_queue(), task_queue(type="Redis")),
    (task_queue(maxLength=1), task_queue(maxLength=2, overflow="RejectPublish")),
)
"""Changes close to the refused ones: the name is said out loud, the type is set for the first time."""
