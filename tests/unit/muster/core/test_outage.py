"""When an outage is tried again and spoken of."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.outage import after_failure, lasted, sentence
from muster.errors import BrokerRefused, BrokerUnavailable


def attempts(seconds, dice=0.999):
    """Fail for so long, each time when it is tried again; yield (time, outage, whether it is said)."""
    now, outage = 0.0, None
    while now <= seconds:
        outage, says = after_failure(outage, now, dice)
        yield now, outage, says
        now = outage.retry_at


def test_warnings_come_at_growing_pauses_for_ever():
    """At once, after 1, 2, 4 and 8 minutes, then every ten; an attempt may be five seconds late for it."""
    said = [at for at, _, says in attempts(4000) if says]
    due = [0, 60, 180, 420, 900, 1500, 2100, 2700, 3300, 3900]
    assert len(said) == len(due)
    assert said == pytest.approx(due, abs=5 * len(due))


@given(st.floats(0, 0.999))
def test_attempts_follow_ever_more_slowly_and_never_stop(dice):
    """The first pause is a fifth of a second at most, none is longer than five."""
    times = [at for at, _, _ in attempts(300, dice)]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert 0.1 <= pauses[0] <= 0.2
    assert pauses == pytest.approx(sorted(pauses))
    assert 1.5 <= pauses[-1] <= 3.0


def test_a_warning_says_how_long_and_what_to_do():
    """The first has nothing to say of time; a refusal names its own remedy."""
    said = [(now, outage) for now, outage, says in attempts(200) if says]
    away, refused = BrokerUnavailable("Redis at x is away"), BrokerRefused("Redis at x refuses")
    texts = [sentence(away, outage, now, meanwhile="2 tasks go on") for now, outage in said]
    assert texts[0].startswith("Redis at x is away; 2 tasks go on. ")
    assert texts[1].startswith(f"Redis at x is away, for {said[1][0]:.0f} s now; 2 tasks go on. ")
    assert ", for 3 min now; " in texts[2]
    assert all("see that it runs" in text for text in texts)
    text = sentence(refused, said[2][1], said[2][0], meanwhile="2 tasks go on")
    assert "user and password in its URL" in text
    assert "see that it runs" not in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (119, "119 s"), (180, "3 min"), (7000, "117 min"), (86400, "24 h")]
)
def test_a_duration_is_said_as_people_do(seconds, text):
    """In seconds, minutes or hours."""
    assert lasted(seconds) == text
