"""URLs of brokers and result stores: which can be used, and that none shows its password."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import ConfigurationError
from muster.settings.urls import mask, parse_broker_url, parse_result_url, usable_broker, with_ca_file


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://host",
        "redis://host:6379/0",
        "redis://:pass%2Fword@host:6379/15",
        "rediss://user:secret@host/0?ssl_cert_reqs=required",
        "redis://[::1]:6379/0",
        "unix:///run/redis.sock?db=1",
        "sqlite:///queue.db",
        "sqlite:////var/lib/queue.db",
    ],
)
def test_a_usable_url_is_taken_as_it_is(url):
    """The value holds the URL unchanged, for brokers and results alike."""
    assert parse_broker_url(url).url == url
    assert parse_result_url(url).scheme == url.partition(":")[0]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "does not begin with "),
        ("localhost:6379", "does not begin with "),
        ("redis:/host", "does not begin with "),
        ("http://host", "does not begin with "),
        ("redis+sentinel://:hidden@host", "Sentinel's"),
        ("redis+socket:///run/redis.sock", "unix:///"),
        ("rpc://", "is for results that go over the broker"),
        ("memory://", "cannot be shared"),
        ("db+sqlite:///x.db", "sqlite:///FILE"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite://relative.db", "names no file"),
        ("unix://", "names no socket"),
        ("redis://user:hidden@host:port/0", "parts that cannot be told apart"),
        ("redis://user:hidden@host:70000/0", "parts that cannot be told apart"),
        ("redis://user:hidden@host:0/0", "no usable host and port"),
        ("redis://user:1/hidden@host/0", "no usable host and port"),
        ("redis://user:hid/3@host/0", "parts that cannot be told apart"),
        ("redis://h/zero", "'zero' where the number of a database stands"),
        ("redis://one;redis://two", "names several servers"),
        ("redis://one,two/0", "names several servers"),
    ],
)
def test_an_unusable_url_is_refused_in_a_sentence(url, words):
    """The error says which URL, what is wrong, and not the password."""
    with pytest.raises(ConfigurationError) as caught:
        parse_broker_url(url)
    text = str(caught.value)
    assert words in text
    assert text.startswith("the broker URL ")
    assert "hidden" not in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@host:1/0", "redis://user:***@host:1/0"),
        ("redis://:secret@host", "redis://:***@host"),
        ("redis://secret@host", "redis://***@host"),
        ("redis://host/0?password=secret&db=1", "redis://host/0?password=***&db=1"),
        ("redis://u:se@cret@host", "redis://u:***@host"),
        ("redis://u:se/cret@host", "redis://u:***@host"),
        ("secret@host", "***@host"),
        ("host:6379", "host:6379"),
    ],
)
def test_a_password_is_masked(url, shown):
    """What stands between the user and the host is not shown, nor a password among the options."""
    assert mask(url) == shown


def refusal(url):
    try:
        parse_broker_url(url)
    except ConfigurationError as error:
        return str(error)
    return ""


@given(user=st.text("abc", max_size=3), secret=st.text("xyz/:?#@%&=", min_size=4, max_size=12))
def test_no_password_is_ever_shown(user, secret):
    """Whatever a password is made of, its text is not in the masked URL, nor in the error."""
    secret = f"XX{secret}XX"
    url = f"redis://{user}:{secret}@host:1/0"
    assert secret not in mask(url)
    assert "XX" not in refusal(url).replace("%XX", "")


def test_a_private_authority_is_trusted_over_tls_only():
    """The file joins a rediss:// URL that names none; other URLs stay as they are."""
    assert with_ca_file("rediss://h/0", "/etc/ca file.crt") == "rediss://h/0?ssl_ca_certs=/etc/ca%20file.crt"
    assert with_ca_file("rediss://h/0?db=1", "/ca") == "rediss://h/0?db=1&ssl_ca_certs=/ca"
    assert with_ca_file("rediss://h?ssl_ca_certs=/own", "/ca") == "rediss://h?ssl_ca_certs=/own"
    assert with_ca_file("redis://h/0", "/ca") == "redis://h/0"
    assert with_ca_file("rediss://h/0", None) == "rediss://h/0"


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "sqlite:///x.db",
        "amqp://",
        "amqp://guest:secret@h:5672//",
        "pyamqp://h/shop",
        "amqps://h?cacertfile=/ca.crt",
        "amqp://one//;amqp://two//",
    ],
)
def test_a_broker_may_be_rabbitmq(url):
    """And several servers of one."""
    usable_broker(url)
    assert parse_broker_url(url).url == url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("amqp:guest:hidden@h", "stands beside RabbitMQ's servers and is none"),
        ("amqp://one;redis://two", "stands beside RabbitMQ's servers and is none"),
        ("amqp://guest:hidden@one,two", "write several servers as amqp://one;amqp://two"),
        ("amqp://guest:hid/den@h:0//", "parts that cannot be told apart"),
        ("amqp://guest:hidden@h:70000//", "parts that cannot be told apart"),
        ("amqp://guest:1/hidden@h//", "no usable host and port"),
        ("redis://one;redis://two", "names several servers"),
    ],
)
def test_what_is_no_broker_is_refused_in_a_sentence(url, words):
    """Without the password."""
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        usable_broker(url)
    assert "hid" not in str(caught.value)


def test_results_are_not_kept_on_rabbitmq():
    """Its place is said, and what to use."""
    with pytest.raises(ConfigurationError, match="where no results can be kept; use rpc://"):
        parse_result_url("amqp://guest:hidden@host//")


def test_each_of_several_servers_is_masked():
    """So that it can be seen which they are."""
    assert mask("amqp://u:hidden@one//;amqp://u:hidden@two//") == "amqp://u:***@one//;amqp://u:***@two//"
