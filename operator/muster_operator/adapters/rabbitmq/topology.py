"""Declares and looks at the queues of a virtual host of RabbitMQ by AMQP, over one connection.

What is there with other arguments is left alone, and said. It knows neither TaskQueues nor what is wanted.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import pika

from muster.errors import BrokerUnavailable, PermissionDenied
from muster.transports.amqp.address import addresses
from muster.transports.amqp.delayed import return_of
from muster.transports.amqp.line import ACCESS_REFUSED, NOT_FOUND, Line, Refusal
from muster_operator.adapters.rabbitmq.names import BY_QUEUE, DEAD, FIRST_DEATH, OTHER
from muster_operator.model.rabbitmq import Answer, QueueDeclaration

HEARTBEAT_SECONDS: Final = 60
ANSWER_SECONDS: Final = 10.0
BATCH: Final = 100
BATCH_SECONDS: Final = 60.0
"""Queues that are declared at once, and how long the server may take for them."""
_EXCHANGES: Final = ((OTHER, "fanout", ""), (BY_QUEUE, "headers", OTHER), (DEAD, "topic", BY_QUEUE))
"""(name, type, where it gives what it cannot place), each after those that it needs."""


class Topology:
    """See the module. Not thread-safe. Raises BrokerUnavailable when the server is away."""

    def __init__(self, url: str) -> None:
        self._line = Line(addresses(url, heartbeat_seconds=HEARTBEAT_SECONDS))

    def _open(self) -> Line:
        if not (self._line.is_open and self._line.check()):
            self._line.open()
        return self._line

    # looking

    def alarm(self) -> str:
        """Return why the server takes no messages now; empty: it does.

        It says so only to who sends: so one message is sent, to nobody.
        """
        was = self._line.blocked
        line = self._open()
        if line.blocked:
            return line.blocked
        if was:
            line.open()  # what was asked meanwhile has been given up
        side = line.new_channel()
        answers: list[Any] = []
        side.channel.basic_publish("", "muster.nobody", b"", pika.BasicProperties())
        side.channel.exchange_declare("amq.direct", passive=True, callback=answers.append)
        line.wait(lambda: answers or line.blocked or not side.is_open, ANSWER_SECONDS)
        if not line.blocked and side.is_open:
            side.channel.close()
        return line.blocked

    def there(self, queues: Iterable[str]) -> frozenset[str]:
        """Return which of the queues exist."""
        return frozenset(queue for queue in queues if self._exists(_queue(queue)))

    def leads(self) -> bool:
        """Return whether the exchanges are there that lead dead letters.

        Raises PermissionDenied when they are and we may not declare them any more: what is declared as it is
        changes nothing, and is all that a user's rights can be asked by.
        """
        if not all(self._exists(_exchange(name)) for name, _, _ in _EXCHANGES):
            return False
        line = self._open()
        side = line.new_channel()  # a channel knows for a while what it was allowed
        try:
            for name, type_, after in _EXCHANGES:
                side.ask(_declare_exchange(side.channel, name, type_, after))
        except Refusal as refusal:
            raise self._error(refusal) from None
        side.channel.close()
        return True

    def _exists(self, question: Callable[[Any], Callable[[Callable[[Any], None]], object]]) -> bool:
        line = self._open()
        try:
            line.ask(question(line.channel))
        except Refusal as refusal:
            if refusal.code == NOT_FOUND:
                return False
            raise self._error(refusal) from None
        return True

    # declaring

    def declare(self, queues: Sequence[QueueDeclaration]) -> list[Answer]:
        """Declare queues, and lead dead letters to them; return what the server said to each."""
        line = self._open()
        try:
            for name, type_, after in _EXCHANGES:
                line.ask(_declare_exchange(line.channel, name, type_, after))
        except Refusal as refusal:
            return [Answer(declaration=each, code=refusal.code, words=str(refusal)) for each in queues]
        answers: list[Answer] = []
        for start in range(0, len(queues), BATCH):
            batch = queues[start : start + BATCH]
            try:
                self._declare_at_once(batch)
                answers += [Answer(declaration=each) for each in batch]
            except Refusal:  # of one of them, and nobody can say which
                answers += [self._declare(each) for each in batch]
        return answers

    def _declare_at_once(self, queues: Sequence[QueueDeclaration]) -> None:
        """Ask for all without waiting for each: a thousand queues cost a few round trips."""
        line = self._open()
        channel = line.channel
        for queue in queues:
            channel.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
            for exchange, key, arguments in _bindings(queue):
                channel.queue_bind(queue.name, exchange, key, arguments=arguments)
        answers: list[Any] = []
        channel.exchange_declare(DEAD, passive=True, callback=answers.append)
        line.wait(lambda: answers, BATCH_SECONDS)

    def _declare(self, queue: QueueDeclaration) -> Answer:
        line = self._open()
        name = queue.name
        try:
            line.ask(
                lambda done: line.channel.queue_declare(
                    name, durable=True, arguments=dict(queue.arguments), callback=done
                )
            )
            for exchange, key, arguments in _bindings(queue):
                line.ask(
                    functools.partial(_bind, line.channel, name, exchange, key, arguments),
                )
        except Refusal as refusal:
            return Answer(declaration=queue, code=refusal.code, words=str(refusal))
        return Answer(declaration=queue)

    def _error(self, refusal: Refusal) -> BrokerUnavailable:
        words = f"RabbitMQ at {self._line.place}: {refusal}"
        return PermissionDenied(words) if refusal.code == ACCESS_REFUSED else BrokerUnavailable(words)

    def close(self) -> None:
        """Give up the connection."""
        self._line.close()


def _bindings(queue: QueueDeclaration) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Yield (exchange, routing key, arguments) of all that leads dead letters to a queue."""
    if queue.name == OTHER:
        yield OTHER, "", None
    for source in queue.dead_letters_of:
        yield DEAD, source, None
        yield DEAD, return_of(source).routing_key, None
        yield BY_QUEUE, "", {"x-match": "all-with-x", FIRST_DEATH: source}


def _bind(
    channel: Any,
    queue: str,
    exchange: str,
    key: str,
    arguments: dict[str, Any] | None,
    done: Callable[[Any], None],
) -> None:
    channel.queue_bind(queue, exchange, key, arguments=arguments, callback=done)


Question = Callable[[Callable[[Any], None]], object]


def _queue(name: str) -> Callable[[Any], Question]:
    return lambda channel: lambda done: channel.queue_declare(name, passive=True, callback=done)


def _exchange(name: str) -> Callable[[Any], Question]:
    return lambda channel: lambda done: channel.exchange_declare(name, passive=True, callback=done)


def _declare_exchange(channel: Any, name: str, type_: str, after: str) -> Question:
    arguments = {"alternate-exchange": after} if after else None
    return lambda done: channel.exchange_declare(
        name, type_, durable=True, arguments=arguments, callback=done
    )
