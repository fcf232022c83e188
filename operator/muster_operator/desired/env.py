"""The environment of a worker and of beat: the whole contract between operator and engine.

The Deployments' builders and `muster dev` call this. `muster.settings.environment` writes the values and
reads them on the other side; `docs/reference/environment.md` describes every variable. A variable is written
only when the manifest says something, so that all else is left to the application's configuration.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from muster.settings.environment import DeadLetter, QueueLimits, WorkerEnvironment, to_environment
from muster_operator.api.taskqueue import Overflow, TaskQueue
from muster_operator.api.workerpool import Acks, PoolType, WorkerPool
from muster_operator.model.world import SecretView

from .quantity import parse_quantity

METRICS_PORT = 9540
"""Where a worker serves /metrics, /livez and /readyz."""
BROKER_CA_DIRECTORY = "/etc/muster/broker"
RESULTS_CA_DIRECTORY = "/etc/muster/results"
URL_KEY = "url"
CA_KEY = "ca.crt"

EnvVar = dict[str, Any]


def worker_settings(pool: WorkerPool, queues: Sequence[TaskQueue]) -> WorkerEnvironment:
    """Return what the manifests say to a worker: all but Secrets, the pod's own identity and its address.

    `queues` are the TaskQueues of spec.queues, in that order.
    """
    spec, inside, limits = pool.spec, pool.spec.pool, pool.spec.limits
    size = None if inside.max_memory_per_child is None else parse_quantity(inside.max_memory_per_child)
    return WorkerEnvironment(
        app=spec.app,
        pool_name=f"{pool.metadata.namespace}/{pool.metadata.name}",
        queues=tuple(queue.queue_name for queue in queues),
        pool=inside.custom_pool or str(inside.type or PoolType.PREFORK),
        concurrency=inside.concurrency,
        autoscale=(inside.autoscale.max, inside.autoscale.min) if inside.autoscale else None,
        max_tasks_per_child=inside.max_tasks_per_child,
        max_memory_per_child_bytes=None if size is None else int(size),
        max_age_seconds=_seconds(inside.max_age),
        acks_late=spec.delivery.acks is Acks.LATE,
        prefetch=spec.delivery.prefetch if isinstance(spec.delivery.prefetch, int) else "Auto",
        lease_seconds=_seconds(spec.delivery.lease),
        reject_on_worker_lost=spec.delivery.reject_on_worker_lost,
        soft_time_limit_seconds=_seconds(limits.soft_time_limit),
        time_limit_seconds=_seconds(limits.time_limit),
        rate_limits=limits.rate,
        global_rate_limits=limits.global_rate,
        delivery_limits={queue.queue_name: queue.spec.delivery_limit for queue in queues},
        dead_letters={queue.queue_name: _dead_letter(queue) for queue in queues},
        queue_limits={
            queue.queue_name: _queue_limits(queue)
            for queue in queues
            if queue.spec.message_ttl is not None or queue.spec.max_length is not None
        },
        declare_queues=False,  # the TaskQueues are there for that
        create_missing_queues=False,
        drain_timeout_seconds=_seconds(spec.drain.timeout),
        result_expires_seconds=_seconds(spec.results.expires) if spec.results else None,
    )


def worker_env(
    pool: WorkerPool, queues: Sequence[TaskQueue], *, broker: SecretView, results: SecretView | None
) -> list[EnvVar]:
    """Return the `env` list of a worker's container, sorted by name."""
    settings = to_environment(worker_settings(pool, queues))
    variables = [{"name": name, "value": value} for name, value in settings.items()]
    variables += _broker_env(broker) + _identity_env()
    if results is not None:
        variables += _results_env(results)
    return sorted(variables, key=lambda each: str(each["name"]))


def beat_env(namespace: str, *, broker: SecretView, results: SecretView | None = None) -> list[EnvVar]:
    """Return the `env` list of beat's container, sorted by name; `results` tell whether a task still runs."""
    settings = to_environment(WorkerEnvironment(create_missing_queues=False))  # as a worker's tasks have it
    variables = [{"name": name, "value": value} for name, value in settings.items()]
    variables += [*_broker_env(broker), *_identity_env(), {"name": "MUSTER_BEAT_SCOPE", "value": namespace}]
    if results is not None:
        variables += _results_env(results)
    return sorted(variables, key=lambda each: str(each["name"]))


def _broker_env(broker: SecretView) -> list[EnvVar]:
    variables = [_from_secret("MUSTER_BROKER_URL", broker.name)]
    if CA_KEY in broker.keys:
        variables.append({"name": "MUSTER_BROKER_CA_FILE", "value": f"{BROKER_CA_DIRECTORY}/{CA_KEY}"})
    return variables


def _results_env(results: SecretView) -> list[EnvVar]:
    variables = [_from_secret("MUSTER_RESULT_URL", results.name)]
    if CA_KEY in results.keys:
        variables.append({"name": "MUSTER_RESULT_CA_FILE", "value": f"{RESULTS_CA_DIRECTORY}/{CA_KEY}"})
    return variables


def _identity_env() -> list[EnvVar]:
    return [
        {"name": "MUSTER_WORKER_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        {"name": "MUSTER_METRICS_ADDRESS", "value": f":{METRICS_PORT}"},
    ]


def _from_secret(variable: str, secret: str) -> EnvVar:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": URL_KEY}}}


def _dead_letter(queue: TaskQueue) -> DeadLetter:
    bounds = queue.spec.dead_letter
    return DeadLetter(
        name=queue.dead_letter_name, max_age=bounds.max_age.total_seconds(), max_length=bounds.max_length
    )


def _queue_limits(queue: TaskQueue) -> QueueLimits:
    full = queue.spec.max_length is not None
    return QueueLimits(
        message_ttl=_seconds(queue.spec.message_ttl),
        max_length=queue.spec.max_length,
        overflow="RejectPublish"
        if full and queue.spec.overflow is Overflow.REJECT_PUBLISH
        else "DropHead"
        if full
        else None,
    )


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()
