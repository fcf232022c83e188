"""Facts about the live view: what a Picture looks like at several widths, and the words for its figures."""

import io
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from muster_operator.api.workerpool import LastDecision
from muster_operator.decide.scaling import Reason
from muster_operator.dev.picture import (
    Picture,
    PoolRow,
    QueueRow,
    ScheduleRow,
    age,
    ahead,
    number,
    rate_per_second,
    why,
)
from muster_operator.dev.terminal import Album
from muster_operator.dev.view import draw

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DECISION = LastDecision(
    from_=0,
    to=4,
    reason="Maximum",
    inputs={"neededSlots": 1790, "slotsPerWorker": 2, "wanted": 1119, "most": 4},
    time=NOW - timedelta(seconds=75),
)
PICTURE = Picture(
    now=NOW,
    since=NOW - timedelta(seconds=12),
    title="examples/quickstart",
    broker="sqlite:////tmp/muster.db",
    queues=(QueueRow(name="files", ready=1234, running=8, waiting=3, dead=2, oldest_seconds=61.0),),
    pools=(
        PoolRow(
            name="files",
            desired=4,
            ready=3,
            leaving=1,
            busy=7,
            slots=8,
            done=586,
            per_second=210.4,
            decision=DECISION,
        ),
    ),
    schedules=(
        ScheduleRow(
            name="summary",
            timing="every 2s",
            last_at=NOW - timedelta(seconds=1),
            next_at=NOW + timedelta(0, 1),
        ),
        ScheduleRow(name="nightly", timing="0 3 * * *", suspended=True),
    ),
)


def drawn(picture, width):
    """Return the view as plain text of so many columns."""
    console = Console(width=width, file=io.StringIO(), force_terminal=False, record=True)
    console.print(draw(picture, width))
    return console.export_text()


def row(text, name):
    """Return the words of the line that begins with a name, in the table with a heading."""
    return next(line.split() for line in text.splitlines() if line.split()[:1] == [name])


def test_everything_stands_in_a_wide_view():
    """Queues, pools with their last decision and why, schedules with last and next run."""
    text = drawn(PICTURE, 130)
    assert row(text, "files") == ["files", "1,234", "8", "3", "2", "1", "m", "01", "s"]
    decision = "0 → 4 1 m 15 s ago, to the maximum: 1,790 slots needed, 2 a worker"
    assert f"4 3 -1 7/8 586 210 {decision}" in " ".join(text.split())
    assert row(text, "summary") == ["summary", "1", "s", "ago", "in", "1", "s", "every", "2s"]
    assert row(text, "nightly") == ["nightly", "-", "suspended", "0", "3", "*", "*", "*"]
    assert "Ctrl-C drains and leaves" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(width):
    """And name, depth and size are readable on the narrowest."""
    lines = drawn(PICTURE, width).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert row(text, "files")[:3] == ["files", "1,234", "8"]
    assert "7/8" in text


def test_what_cannot_be_read_is_a_dash_with_its_reason():
    """Never a 0."""
    broken = Picture(
        now=NOW, since=NOW, title="a", broker="b", queues=(QueueRow(name="mail", problem="no answer"),)
    )
    text = drawn(broken, 100)
    assert row(text, "mail") == ["mail", "-", "-", "-", "-", "-"]
    assert "! queue mail: no answer" in text


def test_troubles_stand_below():
    """Whole, however narrow the terminal is."""
    trouble = "files-1: ended with exit code 1; log: /somewhere/far/away/in/a/deep/folder/files-1.log"
    text = drawn(Picture(now=NOW, since=NOW, title="a", broker="b", troubles=(trouble,)), 50)
    assert "".join(text.split()).endswith("!" + "".join(trouble.split()))


def test_figures_stand_below_figures():
    """The tables have columns of one width, so that an eye runs down them."""
    lines = drawn(replace(PICTURE, schedules=PICTURE.schedules[:1]), 130).splitlines()
    heads = [line for line in lines if line.startswith(("QUEUE", "POOL", "SCHEDULE"))]
    ends = {tuple(at.end() for at in re.finditer(r"\S+( RUN)?", line))[1:3] for line in heads}
    assert len(heads) == 3
    assert len(ends) == 1


def test_the_end_is_said():
    """When nothing runs any more nothing is left to be interrupted."""
    text = drawn(Picture(now=NOW, since=NOW, title="a", broker="b", draining=True, ended=True), 100)
    assert "ended" in text
    assert "Ctrl-C" not in text


def test_draining_is_said():
    """With what a second Ctrl-C does."""
    assert "draining; Ctrl-C ends at once" in drawn(
        Picture(now=NOW, since=NOW, title="a", broker="b", draining=True), 100
    )


def test_every_reason_to_change_a_size_has_words():
    """No user reads a bare CamelCase word, but for what never changes a size."""
    quiet = {Reason.STEADY, Reason.WITHIN_WINDOW, Reason.SCALING_CONFLICT}
    for reason in set(Reason) - quiet:
        said = why(LastDecision(from_=0, to=1, reason=str(reason), time=NOW))
        assert said
        assert said == said.lower() or " " in said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "-"),
        (-3, "0 s"),
        (0.9, "0 s"),
        (59, "59 s"),
        (125, "2 m 05 s"),
        (11400, "3 h 10 m"),
        (187200, "2 d 04 h"),
    ],
)
def test_ages_in_two_units(seconds, said):
    """The two largest."""
    assert age(seconds) == said


def test_a_countdown_rounds_up():
    """It is `now` when the time has come, and not before."""
    assert ahead(NOW + timedelta(milliseconds=100), NOW) == "in 1 s"
    assert ahead(NOW, NOW) == "now"
    assert ahead(None, NOW) == "-"


@given(st.lists(st.integers(0, 50), max_size=20), st.floats(0.05, 2))
def test_a_rate_is_never_below_zero_or_above_the_steepest_rise(rises, step):
    """The mean over a window lies among the rises in it."""
    total, totals = 0, []
    for index, rise in enumerate(rises):
        total += rise
        totals.append((NOW + timedelta(seconds=index * step), total))
    rate = rate_per_second(totals, totals[-1][0] if totals else NOW)
    assert 0 <= rate <= max(rises, default=0) / step + 0.01


def test_a_steady_rate_is_found_and_a_stop_is_seen():
    """Ten a second for five seconds, then nothing."""
    totals = [(NOW + timedelta(seconds=each / 10), each) for each in range(50)]
    assert rate_per_second(totals, totals[-1][0]) == pytest.approx(10, rel=0.05)
    later = [(NOW + timedelta(seconds=each / 10), 49) for each in range(50, 100)]
    assert rate_per_second(totals + later, later[-1][0]) == 0


def test_figures_have_separators():
    """A dash for what is not known."""
    assert (number(None), number(0), number(1234567)) == ("-", "0", "1,234,567")


class Silent:
    """Shows nothing."""

    def picture(self, picture): ...
    def event(self, text, at): ...
    def line(self, text): ...


def test_the_saved_picture_is_the_busiest(tmp_path):
    """Of all that were shown; it is an SVG with the view's words."""
    album = Album(Silent())
    for busy in (PICTURE, Picture(now=NOW, since=NOW, title="idle", broker="b")):
        album.picture(busy)
    album.save(tmp_path / "view.svg")
    svg = (tmp_path / "view.svg").read_text()
    assert svg.startswith("<svg")
    assert "examples/quickstart" in svg
    assert "idle" not in svg
