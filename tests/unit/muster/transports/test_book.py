"""What a scope's log comes to: the same for every reader, wherever it begins."""

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from muster.transports.schedules.base import Advance, Changed, Done, Superseded
from muster.transports.schedules.book import Book
from muster.wire.schedule import RunRecord, ScheduleEntry, encode
from muster.wire.schedule_log import Record, TermNote, TickRun

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def entry(uid="u", number=0):
    return ScheduleEntry(
        uid=uid, name=uid, task="tick", every_seconds=60, created_at=NOON, since=NOON, generation=number
    )


def put(*entries):
    return Record(put={one.uid: msgspec.Raw(encode(one)) for one in entries})


def run(number):
    return RunRecord(settled_at=NOON + number * timedelta(minutes=1))


def read(log, book=None, since=0):
    """Feed a log, or what is behind an offset of it, to a book."""
    book = book or Book()
    for offset, message in enumerate(log[since:], since):
        if isinstance(message, TickRun):
            book.take_tick(offset, 100, message)
        else:
            book.take_record(offset, 100, message)
    return book


def seen(book):
    uids = "abc"
    return (
        {uid: one.entry for uid, one in book.entries.items()},
        book.runs(uids),
        book.term,
        {change.entry.uid for change in book.changes(0, ()).put},
    )


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "remove", "tick", "note", "term", "sure", "repeat"]),
        st.sampled_from("abc"),
        st.integers(0, 3),
    ),
    max_size=30,
)


@given(ACTIONS)
def test_who_begins_where_the_log_says_all_comes_to_the_same(actions):
    """After any history, with repetitions anywhere, read from its beginning or from the last of those."""
    log, book = [], Book()

    def append(message):
        log.append(message)
        read(log, book, len(log) - 1)

    for number, (what, uid, value) in enumerate(actions):
        match what:
            case "put":
                append(put(entry(uid, value)))
            case "remove":
                append(Record(removed=[uid]))
            case "tick" if uid in book.entries:  # beat ticks by entries that it has read
                append(TickRun(uid, run(number), book.first))
            case "note" if uid in book.entries:
                append(Record(runs={uid: run(number)}))
            case "term":
                append(Record(term=TermNote(uid, number, 9.0)))
            case "sure":
                append(Record(sure=True))
            case "repeat":
                begin = book.next
                append(Record(kept=list(book.kept()), term=book.term))
                append(Record(first=begin))
    assert seen(read(log)) == seen(book)
    assert seen(read(log, since=book.first)) == seen(book)


def test_a_repetition_does_not_undo_what_was_written_meanwhile():
    """Somebody else has written between what was read and its repetition: theirs holds."""
    log = [put(entry("a"), entry("b")), Record(runs={"a": run(1)})]
    kept = list(read(log).kept())
    log += [put(entry("a", 2)), Record(removed=["b"]), TickRun("a", run(2), 0), Record(kept=kept)]
    book = read(log)
    assert {uid: one.entry for uid, one in book.entries.items()} == {"a": entry("a", 2)}
    assert book.runs("ab") == {"a": run(2)}
    assert seen(read(log, since=2)) == seen(book)


def test_ticks_are_unsure_until_somebody_says_that_they_are_not():
    """What stood there before the first of them is remembered, to be put back."""
    log = [put(entry()), Record(runs={"u": run(1)}), TickRun("u", run(2), 0), TickRun("u", run(3), 0)]
    book = read(log)
    assert book.unsure == {"u": run(1)}
    assert book.record("u") == run(3)
    log.append(Record(sure=True, runs=dict(book.unsure)))
    book = read(log)
    assert book.unsure == {}
    assert book.record("u") == run(1)


def test_a_reader_that_begins_anew_is_told_only_what_has_changed():
    """Entries that are as it knew them keep their revisions."""
    log = [put(entry("a"), entry("b"), entry("c"))]
    first = read(log)
    log += [put(entry("b", 1)), Record(removed=["c"]), put(entry("a"))]
    again = read(log, Book(first))
    again.forget_the_last()
    changes = again.changes(first.revision, {"a", "b", "c"})
    assert [change.entry for change in changes.put] == [entry("b", 1)]
    assert changes.removed == ["c"]
    assert changes.revision > first.revision


def test_an_equal_entry_changes_nothing():
    """Whoever writes it again."""
    log = [put(entry())]
    before = read(log).revision
    assert read([*log, put(entry())]).revision == before


def test_steps_are_judged_in_their_order():
    """By the entry that stands there, and from mark to mark."""
    book = read([put(entry())])
    revision = book.revision

    def step(after, to, **fields):
        mark = None if after is None else run(after).settled_at
        return Advance(**{"uid": "u", "revision": revision, "after": mark, "record": run(to), **fields})

    steps = [
        step(None, 1),
        step(1, 2),
        step(None, 3),
        step(2, 3, revision=revision + 1),
        step(2, 3, uid="gone"),
    ]
    assert book.judge(steps) == [Done(), Done(), Superseded(run(2)), Changed(), Changed()]


def test_an_older_term_does_not_come_back():
    """Numbers only rise, and a term that is over stays so."""
    log = [Record(term=TermNote("b", 2, 9.0)), Record(term=TermNote("a", 1, 9.0))]
    assert read(log).term == TermNote("b", 2, 9.0)
    over = TermNote("b", 2, 9.0, over=True)
    assert read([*log, Record(term=over), Record(term=TermNote("b", 2, 9.0))]).term == over
