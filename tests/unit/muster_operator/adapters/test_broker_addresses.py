"""What a broker's URL means to an operator that stands in another namespace, and which mean the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster_operator.adapters.brokers import in_namespace, place_of


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
        "http://[rabbit]:15672",
    ],
)
def test_every_other_address_stays_as_it_is(url):
    """Names with dots, addresses, localhost, and brokers without a host mean the same everywhere."""
    assert in_namespace(url, "shop") == url


HOSTS = st.sampled_from(["rabbit", "Rabbit", "RABBIT.other.svc", "rabbit.other.svc", "[::1]"])
PORTS = st.sampled_from(["", ":5672", ":5671", ":5673"])
VIRTUAL_HOSTS = {
    "": "/",
    "/": "/",
    "//": "/",
    "/%2F": "/",
    "/%2f": "/",
    "/shop": "shop",
    "/sho%70": "shop",
} | {"/Shop": "Shop"}
SERVERS = st.tuples(
    st.sampled_from(["amqp", "amqps", "pyamqp"]), HOSTS, PORTS, st.sampled_from(sorted(VIRTUAL_HOSTS))
)


@given(st.lists(SERVERS, min_size=1, max_size=3), st.lists(SERVERS, min_size=1, max_size=3), st.data())
def test_one_virtual_host_is_one_place_however_it_is_written(some, others, data):
    """Scheme's port or none, any case of the host, any spelling of the path, any order, any user."""

    def url(servers):
        users = st.sampled_from(["", "me:word@", "you@"])
        return ";".join(
            f"{scheme}://{data.draw(users)}{host}{port}{path}" for scheme, host, port, path in servers
        )

    def meant(servers):
        return {
            (host.lower(), port or (":5671" if scheme == "amqps" else ":5672"), VIRTUAL_HOSTS[path])
            for scheme, host, port, path in servers
        }

    assert (place_of(url(some)) == place_of(url(others))) == (meant(some) == meant(others))


@pytest.mark.parametrize(
    "url",
    ["amqp://h", "amqp://h/", "amqp://h//", "amqp://H:5672/%2F", "amqp://me:word@h:5672/", "pyamqp://h"],
)
def test_spellings_of_the_default_virtual_host(url):
    """The same in plain words; another virtual host beside it is another place."""
    assert place_of(url) == place_of("amqp://h:5672/")
    assert place_of(url) != place_of("amqp://h:5672/shop")
