"""What a broker's URL means to an operator that stands in another namespace."""

import pytest

from muster_operator.adapters.brokers import in_namespace


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("redis://broker", "redis://broker.shop.svc"),
        ("redis://broker:6379/0", "redis://broker.shop.svc:6379/0"),
        ("redis://:p%40ss@broker:6379/1?a=b", "redis://:p%40ss@broker.shop.svc:6379/1?a=b"),
        ("rediss://me:secret@broker/2", "rediss://me:secret@broker.shop.svc/2"),
    ],
)
def test_a_host_of_one_word_is_a_service_of_the_secrets_namespace(url, meant):
    """Workers resolve it by their pod's search path, the operator's would lead to its own namespace."""
    assert in_namespace(url, "shop") == meant


@pytest.mark.parametrize(
    "url",
    [
        "redis://broker.other.svc:6379/0",
        "redis://broker.example.com/0",
        "redis://10.0.0.7:6379/0",
        "redis://[::1]:6379/0",
        "redis://localhost:6379/0",
        "unix:///run/redis.sock?db=0",
        "sqlite:////data/queue.db",
    ],
)
def test_every_other_address_stays_as_it_is(url):
    """Names with dots, addresses, localhost, and brokers without a host mean the same everywhere."""
    assert in_namespace(url, "shop") == url
