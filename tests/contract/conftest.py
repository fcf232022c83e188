"""The brokers that each clause of the ports is tried on."""

import pytest

from brokers import OnMemory, OnRabbitMQ, OnRedis, OnSQLite

POLLED = ["memory", "sqlite", pytest.param("redis", marks=pytest.mark.servers)]
"""Those that are asked for messages, and keep them under leases."""
PUSHING = pytest.param("rabbitmq", marks=pytest.mark.servers)
"""What pushes them, and holds them by the connection."""


def _made(name, request, tmp_path):
    match name:
        case "memory":
            return OnMemory()
        case "sqlite":
            return OnSQLite(tmp_path / "broker.db")
        case "redis":
            return OnRedis(request.getfixturevalue("redis_server").url)
        case "rabbitmq":
            return OnRabbitMQ(request.getfixturevalue("rabbitmq"))


@pytest.fixture(params=POLLED)
def broker(request, tmp_path):
    made = _made(request.param, request, tmp_path)
    yield made
    made.close()


@pytest.fixture(params=[*POLLED, PUSHING])
def any_broker(request, tmp_path):
    made = _made(request.param, request, tmp_path)
    yield made
    made.close()
