"""The queues in which messages wait: Celery's, down to the last argument, held against kombu itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport import native_delayed_delivery as kombu

from muster.transports.amqp.delayed import (
    DELIVERY_EXCHANGE,
    ENTRY,
    LEVELS,
    MAX_SECONDS,
    Exchange,
    ExchangeBinding,
    Queue,
    QueueBinding,
    layout,
    return_of,
    routing_key,
)

SECONDS = st.floats(0.001, 2**30)


def matches(pattern, key):
    """Whether a topic exchange's pattern fits: `*` is one word, `#` any number of them."""
    if not pattern:
        return not key
    if pattern[0] == "#":
        return matches(pattern[1:], key) or (bool(key) and matches(pattern, key[1:]))
    return bool(key) and pattern[0] in {"*", key[0]} and matches(pattern[1:], key[1:])


def journey(key, queues=()):
    """Follow a message from its entry: (the queues in which it waits, the queues that it comes to)."""
    parts = [*layout("classic"), *map(return_of, queues)]
    times = {part.name: part.arguments["x-message-ttl"] / 1000 for part in parts if isinstance(part, Queue)}
    after = {part.name: part.arguments["x-dead-letter-exchange"] for part in parts if isinstance(part, Queue)}
    words = key.split(".")
    exchange, waited, arrived = ENTRY, [], []
    while True:
        hits = [p for p in parts if isinstance(p, QueueBinding) and p.exchange == exchange
                and matches(p.routing_key.split("."), words)]  # fmt: skip
        ways = [p.destination for p in parts if isinstance(p, ExchangeBinding) and p.source == exchange
                and matches(p.routing_key.split("."), words)]  # fmt: skip
        if exchange == DELIVERY_EXCHANGE:
            arrived += [hit.queue for hit in hits]
            return waited, arrived
        assert len(hits) + len(ways) == 1, "at each level it goes one way"
        if hits:
            waited.append(times[hits[0].queue])
            exchange = after[hits[0].queue]
        else:
            [exchange] = ways


@given(SECONDS, st.sampled_from(["mail", "mail.high", "celery"]))
def test_a_message_waits_as_long_as_it_is_told(seconds, queue):
    """Rounded up to a second, at most the 8.5 years that 28 bits hold, and then it is in its queue only."""
    waited, arrived = journey(routing_key(seconds, queue), ["mail", "high", "mail.high", "celery"])
    whole = sum(waited)
    assert whole == MAX_SECONDS or seconds <= whole < seconds + 1 or whole == 1
    assert arrived == [queue]


@given(st.integers(1, MAX_SECONDS), st.sampled_from(["mail", "mail.high"]))
def test_the_key_is_kombus(seconds, queue):
    """So that Celery's workers get what our clients send."""
    assert routing_key(seconds, queue) == kombu.calculate_routing_key(seconds, queue)


def test_a_key_that_has_waited_already_waits_anew():
    """A retry carries the key of its delivery; it does not grow."""
    once = routing_key(5, "mail")
    assert routing_key(9, once) == routing_key(9, "mail")


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_the_layout_is_kombus(queue_type):
    """Name by name: a difference in one argument would be refused by the server, for whoever comes second."""
    seen = Recorder()
    kombu.declare_native_delayed_delivery_exchanges_and_queues(seen, queue_type)
    ours = list(layout(queue_type))
    assert {each.name for each in ours if isinstance(each, Exchange)} == seen.exchanges
    assert {each.name: each.arguments for each in ours if isinstance(each, Queue)} == seen.queues
    assert {(p.queue, p.exchange, p.routing_key) for p in ours if isinstance(p, QueueBinding)} == seen.bound
    assert {
        (p.destination, p.source, p.routing_key) for p in ours if isinstance(p, ExchangeBinding)
    } == seen.exchange_bound
    assert len(seen.queues) == LEVELS


class Recorder:
    """A connection and channel that writes down what kombu declares."""

    def __init__(self):
        self.exchanges, self.queues, self.bound, self.exchange_bound = set(), {}, set(), set()
        self.is_evented = False
        self.no_ack_consumers = None

    def channel(self):
        return self

    def exchange_declare(self, exchange, **_details):
        self.exchanges.add(exchange)

    def prepare_queue_arguments(self, arguments, **_details):
        return arguments

    def queue_declare(self, queue, arguments, **_details):
        self.queues[queue] = arguments
        return queue, 0, 0

    def queue_bind(self, queue, exchange, routing_key, **_details):
        if exchange:
            self.bound.add((queue, exchange, routing_key))

    def exchange_bind(self, destination, source, routing_key, **_details):
        self.exchange_bound.add((destination, source, routing_key))
