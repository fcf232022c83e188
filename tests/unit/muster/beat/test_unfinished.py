"""Whether a run is finished: by its result, by its age, and with a store that does not answer."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from muster.beat.unfinished import NO_ANSWER, NO_STORE, NoResults, ResultRuns, unfinished
from muster.core.effects import StoredResult
from muster.core.schedule import Unknown
from muster.errors import BrokerUnavailable
from muster.results.memory import MemoryResults
from muster.wire.result import READY_STATES
from muster.wire.schedule import RunRecord

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
RECORD = RunRecord(settled_at=NOON, last_at=NOON, last_id="last")


@pytest.mark.parametrize("status", sorted(READY_STATES))
def test_a_ready_state_is_finished(status):
    """However the run ended, and whenever."""
    assert not unfinished(status, MINUTE, DAY)
    assert not unfinished(status, 9 * DAY, None)


@pytest.mark.parametrize("status", ["PENDING", "STARTED", "RETRY", "PROGRESS"])
def test_any_other_state_is_not(status):
    """A retry to come belongs to the run."""
    assert unfinished(status, MINUTE, DAY)
    assert unfinished(status, 9 * DAY, DAY)


def test_no_result_is_not_finished_while_it_would_be_kept():
    """A task that waits in its queue has no result yet; an old one's may have expired."""
    assert unfinished(None, MINUTE, DAY)
    assert not unfinished(None, DAY, DAY)
    assert unfinished(None, 99 * DAY, None)


def test_a_store_is_asked_by_the_last_id():
    """Each schedule has the answer of its own last run."""
    store = MemoryResults()
    document = b'{"status":"SUCCESS","result":1,"task_id":"done"}'
    store.store(
        [StoredResult("done", document, "SUCCESS", 0, 0), StoredResult("odd", b"[]", "SUCCESS", 0, 0)]
    )
    records = {
        "never ran": RunRecord(),
        "done": RunRecord(last_at=NOON, last_id="done"),
        "waits": RECORD,
        "odd": RunRecord(last_at=NOON, last_id="odd"),
    }
    answers = ResultRuns(store, kept=DAY).unfinished(records, NOON + MINUTE)
    odd = answers.pop("odd")
    assert answers == {"never ran": False, "done": False, "waits": True}
    assert isinstance(odd, Unknown)
    assert "cannot be read" in odd.reason


class Away:
    """A store that cannot be reached."""

    asked = 0

    def get(self, task_id):
        self.asked += 1
        raise BrokerUnavailable("Redis at results:6379/0 cannot be reached")


def test_a_store_that_is_away_leaves_it_unknown():
    """The reason is the store's, and it is asked once, not once for each schedule."""
    store = Away()
    answers = ResultRuns(store, kept=DAY).unfinished({"u": RECORD, "v": RECORD}, NOON)
    assert {answer.reason for answer in answers.values()} == {"Redis at results:6379/0 cannot be reached"}
    assert store.asked == 1


class Silent:
    """A store that answers when it is told to."""

    def __init__(self):
        self.go_on = threading.Event()
        self.asked = 0

    def get(self, task_id):
        self.asked += 1
        self.go_on.wait(30)


def test_a_silent_store_holds_beat_up_for_a_moment_only(monkeypatch):
    """After that nothing is known, and it is not asked again before it has answered."""
    monkeypatch.setattr("muster.beat.unfinished.PATIENCE_SECONDS", 0.01)
    store = Silent()
    runs = ResultRuns(store, kept=DAY)
    assert runs.unfinished({"u": RECORD}, NOON) == {"u": NO_ANSWER}
    assert runs.unfinished({"u": RECORD}, NOON) == {"u": NO_ANSWER}
    assert store.asked == 1
    store.go_on.set()
    runs._asking.join()
    assert runs.unfinished({"u": RECORD}, NOON) == {"u": True}


def test_without_a_store_nothing_is_known():
    """The reason says how to name one."""
    assert NoResults().unfinished({"u": RECORD}, NOON) == {"u": NO_STORE}
