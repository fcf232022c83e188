"""The brokers that each clause of the ports is tried on."""

import pytest

from brokers import OnMemory, OnRedis, OnSQLite


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.servers)])
def broker(request, tmp_path):
    match request.param:
        case "memory":
            made = OnMemory()
        case "sqlite":
            made = OnSQLite(tmp_path / "broker.db")
        case "redis":
            made = OnRedis(request.getfixturevalue("redis_server").url)
    yield made
    made.close()
