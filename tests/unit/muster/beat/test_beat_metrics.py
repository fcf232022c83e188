"""Beat's metrics: names, labels and numbers as they are scraped."""

from datetime import UTC, datetime

from muster.app.app import Muster
from muster.beat.compose import composer
from muster.beat.loop import BeatLoop, LoopSettings
from muster.beat.metrics import BeatCollector
from muster.health import render
from muster.transports.memory import MemoryBroker
from muster.transports.schedules.memory import MemorySchedules
from muster.wire.schedule import ScheduleEntry

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def test_what_beat_has_done_is_scraped():
    """Two ticks, one of them after three missed due times, 4 ms late; then the sizes."""
    now = [NOON.timestamp()]
    store = MemorySchedules(MemoryBroker(lambda: now[0]), clock=lambda: now[0])
    store.put(
        [
            ScheduleEntry(
                uid="u",
                name="shop/u",
                task="shop.tick",
                queue="mail",
                every_seconds=1,
                created_at=NOON,
                since=NOON,
            )
        ]
    )
    loop = BeatLoop(
        LoopSettings(scope="shop", holder="one"),
        store=store,
        compose=composer(Muster("shop", set_as_current=False)),
        clock=lambda: now[0],
        monotonic=lambda: now[0],
    )
    for later in (1.004, 3.0):
        now[0] += later
        loop.step()
    lines = render(BeatCollector(loop)).decode().splitlines()
    for line in (
        'muster_beat_ticks_total{queue="mail",task="shop.tick"} 2.0',
        'muster_beat_missed_ticks_total{queue="mail",task="shop.tick"} 2.0',
        'muster_beat_lag_seconds_bucket{le="0.005"} 2.0',
        "muster_beat_lag_seconds_count 2.0",
        "muster_beat_leader 1.0",
        "muster_beat_connected 0.0",
        "muster_beat_schedules 1.0",
        "muster_beat_refused_schedules 0.0",
    ):
        assert line in lines
