"""From a load to a size, with its reason."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster_operator.api.conditions import Reason as ConditionReason
from muster_operator.decide.load import Load
from muster_operator.decide.scaling import Reason, target
from muster_operator.model.history import History
from muster_operator.model.readings import Known
from worlds import NOW, pool_of, seconds, unknown


def load_of(slots):
    return Load(slots=slots, ready=slots, claimed=0, running=0, expired=0, due=0, busy=0)


def decide(load, size, *, slots=1, history=None, now=NOW, conflict=False, spec=None, **scaling):
    """The target for a load: a number of slots, or an Unknown."""
    made = pool_of(
        **({"scaling": {"maxReplicas": 50, "target": {"utilization": 100}} | scaling} | (spec or {}))
    )
    reading = Known(value=load_of(load), at=now) if isinstance(load, int) else load
    return target(
        made.spec,
        reading,
        slots_per_worker=slots,
        size=size,
        foreign_scaler=conflict,
        history=history or History(),
        now=now,
    )


def after(*loads, size, step=10, **options):
    """The target after loads that were seen `step` seconds apart, the last of them now, at one size."""
    history, found = History(), None
    for index, load in enumerate(loads):
        moment = NOW - seconds(step * (len(loads) - 1 - index))
        if load is not None and not isinstance(load, int):
            load = replace(load, at=moment)  # noqa: PLW2901 - the same failure, seen then
        found = decide(load, size, history=history, now=moment, **options)
        history = found.history
    return found


def test_from_zero_to_the_needed_size_in_one_step():
    """40 slots are needed and a worker has 8: five workers at once."""
    found = decide(40, 0, slots=8)
    assert (found.replicas, found.reason) == (5, Reason.LOAD_ROSE)
    assert found.inputs["neededSlots"] == 40
    assert found.inputs["slotsPerWorker"] == 8
    assert found.inputs["wanted"] == 5


def test_a_backlog_counts_in_the_very_second_in_which_it_appears():
    """Without a window on the way up, an empty queue a moment ago delays nothing."""
    assert after(0, 7, size=0, step=0.2).replicas == 7


def test_utilization_leaves_room():
    """At 80 percent 40 slots need 50, which are 7 workers of 8."""
    assert decide(40, 0, slots=8, target={"utilization": 80}).replicas == 7


def test_a_load_that_fell_takes_effect_after_the_window():
    """60 s by default: at 50 s the size holds, at 60 s it falls in one step, to zero if need be."""
    waiting = after(*[0] * 6, size=10)
    assert (waiting.replicas, waiting.reason) == (10, Reason.WITHIN_WINDOW)
    assert waiting.changes_at is not None
    fallen = after(*[0] * 7, size=10)
    assert (fallen.replicas, fallen.reason) == (0, Reason.LOAD_FELL)


def test_the_highest_wish_of_the_window_holds():
    """A peak within the window keeps its workers, and no more."""
    assert after(9, 1, 4, 1, 1, 1, 1, 1, size=10).replicas == 4


def test_an_operator_that_has_just_started_shrinks_nothing():
    """Without a history there is no window that agrees."""
    found = decide(0, 10)
    assert (found.replicas, found.reason) == (10, Reason.WITHIN_WINDOW)


def test_an_outage_within_the_window_starts_it_anew():
    """Fresh proof only: an Unknown in between makes the pool wait for another whole window."""
    assert after(*[0] * 5, unknown(), *[0] * 5, size=10).replicas == 10
    assert after(*[0] * 5, unknown(), *[0] * 7, size=10).replicas == 0


def test_an_unknown_load_holds_the_size():
    """By default nothing moves, however long it lasts."""
    found = decide(unknown(at=NOW - seconds(3600)), 7)
    assert (found.replicas, found.reason, found.may_shrink) == (7, Reason.LOAD_UNKNOWN, False)
    assert found.inputs["unknown"] == "BrokerUnreachable"


FALLBACK = {"after": "30s", "replicas": 4}


@pytest.mark.parametrize(
    ("behavior", "lasts", "size", "replicas", "reason"),
    [
        ("Static", 29, 0, 0, Reason.LOAD_UNKNOWN),
        ("Static", 30, 0, 4, Reason.FALLBACK),
        ("Static", 30, 9, 9, Reason.FALLBACK),
        ("AtLeast", 29, 0, 0, Reason.LOAD_UNKNOWN),
        ("AtLeast", 30, 0, 4, Reason.FALLBACK),
        ("AtLeast", 30, 2, 4, Reason.FALLBACK),
        ("AtLeast", 30, 9, 9, Reason.FALLBACK),
        ("Hold", 3600, 0, 0, Reason.LOAD_UNKNOWN),
    ],
)
def test_a_fallback_works_from_zero_and_takes_nobody_away(behavior, lasts, size, replicas, reason):
    """After its delay it lifts the pool, from zero too; a larger pool stays."""
    fallback = FALLBACK | {"behavior": behavior}
    found = decide(unknown(at=NOW - seconds(lasts)), size, fallback=fallback)
    assert (found.replicas, found.reason, found.may_shrink) == (replicas, reason, False)


def test_a_fallback_says_when_it_will_hold():
    """So that the loop looks again then, though nothing else happens."""
    found = decide(unknown(at=NOW - seconds(10)), 0, fallback=FALLBACK | {"behavior": "Static"})
    assert found.changes_at == NOW + seconds(20)


def test_bounds():
    """Never below the minimum, never above the maximum, each with its own reason."""
    low = decide(0, 0, minReplicas=2)
    assert (low.replicas, low.reason, low.limited) == (2, Reason.MINIMUM, ConditionReason.AT_MINIMUM)
    high = decide(100, 3, maxReplicas=5)
    assert (high.replicas, high.limited) == (5, ConditionReason.AT_MAXIMUM)
    lowered = decide(100, 9, maxReplicas=5)
    assert (lowered.replicas, lowered.reason) == (5, Reason.MAXIMUM)


FLOOR = {"schedule": "0 8 * * *", "until": "0 18 * * *", "replicas": 6}


def test_a_floor_holds_whatever_the_load():
    """At noon a floor of 6 stands, with no load and with an unknown one; its end is announced."""
    empty = decide(0, 0, floors=[FLOOR])
    assert (empty.replicas, empty.reason) == (6, Reason.FLOOR)
    assert empty.changes_at == NOW.replace(hour=18)
    assert decide(unknown(), 0, floors=[FLOOR]).replicas == 6
    assert decide(9, 0, floors=[FLOOR]).replicas == 9


def test_the_end_of_a_floor_needs_no_window():
    """The load has asked for nothing all along, so the workers may go when the floor ends."""
    evening = NOW.replace(hour=18)
    history = History()
    for ago in range(70, -1, -10):
        found = decide(0, 6, floors=[FLOOR], history=history, now=evening - seconds(ago))
        history = found.history
        assert ago == 0 or found.replicas == 6
    assert found.replicas == 0


def test_behavior_limits_the_way_up():
    """One pod a minute: 40 are needed and one is added."""
    policy = {"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}}
    found = decide(40, 3, behavior=policy)
    assert (found.replicas, found.reason) == (4, Reason.SCALE_UP_LIMITED)


def test_behavior_limits_the_way_down():
    """Two pods a minute after the window."""
    rule = {"stabilizationSeconds": 0, "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]}
    found = decide(0, 10, behavior={"scaleDown": rule})
    assert (found.replicas, found.reason) == (8, Reason.SCALE_DOWN_LIMITED)


def test_a_window_on_the_way_up_waits_for_the_smallest_wish():
    """With 30 s of stabilization a peak of 10 s moves nothing."""
    behavior = {"scaleUp": {"stabilizationSeconds": 30}}
    assert after(2, 2, 2, 9, size=2, behavior=behavior).reason is Reason.WITHIN_WINDOW
    assert after(2, 9, 8, 9, 9, size=2, behavior=behavior).replicas == 8


@pytest.mark.parametrize(
    ("spec", "replicas", "reason"),
    [
        ({"replicas": 3, "scaling": {"mode": "Fixed"}}, 3, Reason.FIXED),
        ({"replicas": 4, "scaling": {"mode": "External"}}, 4, Reason.EXTERNAL),
        ({"replicas": 4, "scaling": {"mode": "Fixed"}, "paused": True}, 0, Reason.PAUSED),
        ({"paused": True, "scaling": {"minReplicas": 5}}, 0, Reason.PAUSED),
    ],
    ids=str,
)
@pytest.mark.parametrize("load", [0, 100, "unknown"])
def test_where_the_user_chooses_the_load_has_no_say(spec, replicas, reason, load):
    """Fixed, External and paused pools have the size that was written, known load or not."""
    found = decide(unknown() if load == "unknown" else load, 2, spec=spec)
    assert (found.replicas, found.reason, found.may_shrink) == (replicas, reason, True)


def test_a_foreign_scaler_makes_us_keep_our_hands_off():
    """Whatever the load and the mode, the size is what it is."""
    found = decide(100, 3, conflict=True)
    assert (found.replicas, found.reason, found.may_shrink) == (3, Reason.SCALING_CONFLICT, False)


SCALING = st.fixed_dictionaries(
    {
        "minReplicas": st.integers(0, 5),
        "maxReplicas": st.integers(5, 60),
        "target": st.fixed_dictionaries({"utilization": st.integers(1, 100)}),
        "behavior": st.fixed_dictionaries(
            {},
            optional={
                direction: st.fixed_dictionaries(
                    {"stabilizationSeconds": st.sampled_from([0, 30, 60])},
                    optional={
                        "selectPolicy": st.sampled_from(["Max", "Min", "Disabled"]),
                        "policies": st.lists(
                            st.fixed_dictionaries(
                                {
                                    "type": st.sampled_from(["Pods", "Percent"]),
                                    "value": st.integers(1, 200),
                                    "periodSeconds": st.integers(1, 120),
                                }
                            ),
                            max_size=2,
                        ),
                    },
                )
                for direction in ("scaleUp", "scaleDown")
            },
        ),
        "floors": st.lists(st.just(FLOOR | {"replicas": 4}), max_size=1),
    }
)
LOADS = st.lists(st.integers(0, 500) | st.just(unknown()), max_size=12)
SIZES = st.integers(0, 70)
SLOTS = st.integers(1, 16)


def history_of(loads, size, slots, scaling):
    history = History()
    for index, load in enumerate(loads):
        moment = NOW - seconds(10 * (len(loads) - index))
        history = decide(load, size, slots=slots, history=history, now=moment, **scaling).history
    return history


@given(scaling=SCALING, past=LOADS, load=st.integers(0, 10_000), size=SIZES, slots=SLOTS)
def test_size_is_within_bounds(scaling, past, load, size, slots):
    """Whatever the past, a known load leads to a size within the bounds, floors among them."""
    history = history_of(past, size, slots, scaling)
    found = decide(load, size, slots=slots, history=history, **scaling)
    least = max(scaling["minReplicas"], 4 if scaling["floors"] else 0)
    assert least <= found.replicas <= scaling["maxReplicas"]


@given(
    scaling=SCALING,
    past=LOADS,
    load=st.integers(0, 500),
    more=st.integers(0, 500),
    size=SIZES,
    slots=SLOTS,
)
def test_more_load_never_means_fewer_workers(scaling, past, load, more, size, slots):
    """Of two pools with one past, the one with more to do is not the smaller one."""
    history = history_of(past, size, slots, scaling)
    smaller = decide(load, size, slots=slots, history=history, **scaling)
    larger = decide(load + more, size, slots=slots, history=history, **scaling)
    assert larger.replicas >= smaller.replicas


@given(
    scaling=SCALING,
    past=LOADS,
    size=SIZES,
    lasts=st.integers(0, 1000),
    fallback=st.fixed_dictionaries(
        {"behavior": st.sampled_from(["Hold", "Static", "AtLeast"]), "replicas": st.integers(0, 5)}
    ),
)
def test_an_unknown_load_never_shrinks(scaling, past, size, lasts, fallback):
    """Whatever the past, the bounds and the fallback."""
    history = history_of(past, size, 1, scaling)
    found = decide(
        unknown(at=NOW - seconds(lasts)), size, history=history, **(scaling | {"fallback": fallback})
    )
    assert found.replicas >= size
    assert not found.may_shrink


@given(scaling=SCALING, past=LOADS, load=st.integers(0, 500), size=SIZES, slots=SLOTS)
def test_deciding_again_at_the_decided_size_changes_nothing(scaling, past, load, size, slots):
    """A target that has been reached is steady at the same moment and load."""
    history = history_of(past, size, slots, scaling)
    first = decide(load, size, slots=slots, history=history, **scaling)
    second = decide(load, first.replicas, slots=slots, history=first.history, **scaling)
    assert second.replicas == first.replicas


@settings(max_examples=25)  # each is hundreds of passes
@given(scaling=SCALING, loads=st.lists(st.integers(0, 500) | st.just(unknown()), max_size=60), slots=SLOTS)
def test_a_steady_load_is_reached(scaling, loads, slots):
    """Whatever was before, a load that stays leads to its own size, unless a direction is disabled."""
    rules = scaling["behavior"]
    size, history, moment = 0, History(), NOW
    # one worker in 120 s is the slowest rule there is, 60 the largest size, and 30 s the shortest window
    for load, later in [*((load, 10) for load in loads), *[(100, 25)] * 350]:
        moment += seconds(later)
        found = decide(load, size, slots=slots, history=history, now=moment, **scaling)
        size, history = found.replicas, found.history
    if not any(rule.get("selectPolicy") == "Disabled" for rule in rules.values()):
        wanted = -(-100 * 100 // (slots * scaling["target"]["utilization"]))
        least = max(scaling["minReplicas"], 4 if scaling["floors"] else 0)
        assert size == max(least, min(wanted, scaling["maxReplicas"]))
