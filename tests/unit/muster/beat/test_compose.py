"""What beat sends: the message that the application itself would send for the due time."""

from datetime import UTC, datetime, timedelta

import pytest

from muster.app.app import Muster
from muster.beat.compose import CannotCompose, composer
from muster.wire.message import open_message, peek
from muster.wire.schedule import ScheduleEntry

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def entry(**fields):
    return ScheduleEntry(
        uid="u",
        name="shop/report",
        **{"task": "shop.report", "every_seconds": 1, "created_at": NOON, "since": NOON, **fields},
    )


@pytest.fixture
def app():
    return Muster("shop", set_as_current=False)


def test_a_message_has_the_entrys_task_arguments_and_id(app):
    """The id is the tick's; arguments arrive as they stand in the entry."""
    made = composer(app)(entry(args=(1, {"a": None}), kwargs={"b": "Grüße"}, queue="mail"), NOON, "the-id")
    message = open_message(made.publication.raw)
    assert (message.task, message.id, message.args, message.kwargs) == (
        "shop.report",
        "the-id",
        [1, {"a": None}],
        {"b": "Grüße"},
    )
    assert message.headers["root_id"] == "the-id"
    assert (made.publication.queue, made.publication.eta) == ("mail", 0.0)


def test_options_are_those_of_apply_async(app):
    """Priority, headers and the like go where a client's would; options without effect are passed over."""
    options = {"priority": 6, "headers": {"x-shop": "1"}, "exchange_type": "direct"}
    made = composer(app)(entry(options=options), NOON, "i")
    assert made.publication.priority == 6
    assert made.headers["x-shop"] == "1"


def test_expires_counts_from_the_due_time(app):
    """A tick that is sent late expires when one on time would have."""
    made = composer(app)(entry(options={"expires": 600.0}), NOON, "i")
    assert peek(made.publication.raw).expires == (NOON + timedelta(minutes=10)).timestamp()


def test_a_queue_of_its_own_goes_before_routes(app):
    """Without one the application routes the task, by its routes or its default."""
    app.conf.task_routes = {"shop.*": "routed"}
    assert composer(app)(entry(queue="mail"), NOON, "i").publication.queue == "mail"
    assert composer(app)(entry(), NOON, "i").publication.queue == "routed"
    assert composer(app)(entry(task="other"), NOON, "i").publication.queue == "celery"


def test_a_tasks_own_options_hold_behind_those_of_the_entry(app):
    """What the task's decorator says is not lost by being sent on schedule."""

    @app.task(name="shop.report", priority=3, ignore_result=True)
    def report():
        pass

    made = composer(app)(entry(), NOON, "i")
    assert (made.publication.priority, made.headers["ignore_result"]) == (3, True)
    assert composer(app)(entry(options={"priority": 9}), NOON, "i").publication.priority == 9


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"options": {"colour": "red"}}, "there is no option colour"),
        ({"options": {"expires": "soon"}}, "unsupported type"),
        ({"options": {"expires": 1e300}}, "makes no message"),
        ({"options": {"serializer": "pickle"}}, "messages are JSON"),
        ({"queue": "unacked"}, "a queue cannot be named"),
    ],
)
def test_an_entry_that_makes_no_message_is_named(app, fields, words):
    """One sentence says which schedule, what is wrong, and that the entry must change."""
    with pytest.raises(CannotCompose, match=words) as raised:
        composer(app)(entry(**fields), NOON, "i")
    assert "schedule shop/report" in str(raised.value)
