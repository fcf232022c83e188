"""From `result_backend` to where results are: in a store, or with `rpc://` with who has sent the task.

Called by the application and by the worker. What it chooses from is imported only then.
"""

from collections.abc import Mapping
from typing import Any

from muster.errors import ConfigurationError
from muster.results.base import ResultStore
from muster.settings.urls import parse_result_url
from muster.transports.connect import is_rabbitmq


def are_sent(result_backend: str | None) -> bool:
    """Whether results are sent over the broker instead of being stored."""
    return (result_backend or "").partition(":")[0] == "rpc"


def connect_results(
    result_backend: str, options: Mapping[str, Any], *, broker_url: str, kept_seconds: int
) -> ResultStore:
    """Return where results are; nothing is connected before it is used. Raises ConfigurationError.

    `options` are Celery's `result_backend_transport_options`. `kept_seconds` (0: for ever) is how long a
    client remembers what was sent to it.
    """
    parse_result_url(result_backend)
    if not are_sent(result_backend):
        from muster.results.connect import connect_results

        return connect_results(result_backend, options)
    if not is_rabbitmq(broker_url):
        raise ConfigurationError(
            "the result backend rpc:// sends results over the broker, which must be RabbitMQ for that: use "
            "an amqp:// broker, or keep results in redis:// or sqlite:///"
        )
    from muster.transports.amqp.replies import AmqpReplies

    return AmqpReplies(broker_url, kept_seconds=kept_seconds)
