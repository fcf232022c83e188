"""With which arguments a missing queue is declared: held against Celery's own queues of the same settings."""

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import Exchange, Queue
from kombu.transport.base import to_rabbitmq_queue_arguments

from muster.settings import resolve
from muster.settings.queues import QueueArguments, queue_arguments, read_queues

WORDS = ("expires", "message_ttl", "max_length", "max_length_bytes", "max_priority")
OPTIONS = {
    "queue_arguments": st.sampled_from(
        [{"x-queue-type": "quorum"}, {"x-max-length": 7}, {"x-max-priority": 3}]
    ),
    "expires": st.sampled_from([1, 2.5]),
    "message_ttl": st.sampled_from([60, 0.1]),
    "max_length": st.integers(1, 9),
    "max_length_bytes": st.integers(1, 9),
    "max_priority": st.integers(1, 9),
}
QUEUES = st.dictionaries(
    st.sampled_from(["mail", "web", "celery"]), st.fixed_dictionaries({}, optional=OPTIONS), max_size=3
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "task_default_queue": st.sampled_from(["celery", "mail"]),
        "task_default_queue_type": st.sampled_from(["classic", "quorum"]),
        "task_create_missing_queue_type": st.sampled_from(["classic", "quorum"]),
        "task_queue_max_priority": st.integers(1, 9),
    },
)


def celerys(settings: dict, name: str) -> dict:
    """Return the arguments with which Celery declares a queue on RabbitMQ."""
    app = Celery("shop", set_as_current=False)
    app.conf.update(settings)
    queue = app.amqp.queues[name]
    words = {word: getattr(queue, word) for word in WORDS}
    return to_rabbitmq_queue_arguments(queue.queue_arguments or {}, **words)


@given(settings=SETTINGS, queues=QUEUES, as_objects=st.booleans())
def test_a_missing_queue_is_declared_as_celery_would(settings, queues, as_objects):
    """Whatever names it: but a quorum queue gets no highest priority, with which RabbitMQ refuses it."""
    if queues:
        settings["task_queues"] = (
            [Queue(name, Exchange(name), **options) for name, options in queues.items()]
            if as_objects
            else queues
        )
    ours = queue_arguments(resolve(settings))
    for name in ("mail", "web", "celery", "another"):
        expected = celerys(
            {key: value for key, value in settings.items() if key != "task_queues"}
            | ({"task_queues": {each: dict(options) for each, options in queues.items()}} if queues else {}),
            name,
        )
        own = ours.of(name)
        if expected.get("x-queue-type") == "quorum" and "x-max-priority" not in own:
            expected.pop("x-max-priority", None)
        assert own == expected


def test_without_a_word_there_are_no_arguments():
    """RabbitMQ takes the virtual host's default type then."""
    assert queue_arguments(resolve({})).of("mail") == QueueArguments().of("mail") == {}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5, "must be a mapping by queue name"),
        ([5], "must be a mapping by queue name"),
        ({"": {}}, "must be a mapping by queue name"),
        ({"news": {"exchange": "news", "exchange_type": "fanout"}}, "binds news to a fanout exchange"),
        ([Queue("news", Exchange("news", type="topic"))], "binds news to a topic exchange"),
    ],
)
def test_a_queue_that_cannot_be_is_refused(value, words):
    """It has no name, or an exchange that copies or matches."""
    with pytest.raises(ValueError, match=words):
        read_queues(value)


def test_what_was_read_reads_the_same():
    """So it can travel to a worker's own process as plain values."""
    queues = [Queue("mail", queue_arguments={"x-queue-type": "quorum"}, max_length=5), "web"]
    found = read_queues(queues)
    assert found == {"mail": {"x-queue-type": "quorum", "x-max-length": 5}, "web": {}}
    assert read_queues({name: {"queue_arguments": arguments} for name, arguments in found.items()}) == found
