"""Schedule: a task that is sent again and again, by cron line, interval or sun."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated

from .conditions import Condition
from .kind import AGE, READY, REASON, Column, Kind
from .meta import JsonObject, JsonValue, Prop, Word, rule
from .objects import CRON_PATTERN, CRON_SENTENCE, NAME_PATTERN, ZONE_PATTERN, ZONE_SENTENCE, ObjectMeta


class SolarEvent(Word):
    """An event of the sun's day, in Celery's words."""

    DAWN_ASTRONOMICAL = "dawn_astronomical"
    DAWN_NAUTICAL = "dawn_nautical"
    DAWN_CIVIL = "dawn_civil"
    SUNRISE = "sunrise"
    SOLAR_NOON = "solar_noon"
    SUNSET = "sunset"
    DUSK_CIVIL = "dusk_civil"
    DUSK_NAUTICAL = "dusk_nautical"
    DUSK_ASTRONOMICAL = "dusk_astronomical"


class CatchUp(Word):
    """What becomes of due times that were missed."""

    NONE = "None", "They are left out."
    LAST = "Last", "The latest is sent."
    ALL = "All", "All are sent, at most 100."


class ConcurrencyPolicy(Word):
    """Whether a run may begin while the one before is not finished."""

    ALLOW = "Allow"
    FORBID = "Forbid", "The due time is left out; needs results on the queue's pool."


@dataclass(frozen=True, kw_only=True)
class Solar:
    """An event of the sun at a place."""

    event: Annotated[SolarEvent, Prop("Which event.")]
    latitude: Annotated[float, Prop("Degrees north.", minimum=-90, maximum=90)]
    longitude: Annotated[float, Prop("Degrees east.", minimum=-180, maximum=180)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the task is sent."""

    priority: Annotated[
        int | None,
        Prop(
            "On Redis and in muster dev 0 goes first, in steps of 0 to 2, 3 to 5, 6 to 8, and 9 and above; "
            "0 by default. On RabbitMQ the highest goes first, where the queue has priorities.",
            minimum=0,
            maximum=255,
        ),
    ] = None
    expires: Annotated[
        timedelta | None,
        Prop("A run that has not started so long after its time is left out.", at_least=timedelta(seconds=1)),
    ] = None
    headers: Annotated[Mapping[str, str], Prop("Headers of the message.", max_items=64, max_length=1024)] = (
        field(default_factory=dict)
    )


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """What is sent, and when."""

    task: Annotated[str, Prop("The task's name.", min_length=1, max_length=253)]
    args: Annotated[tuple[JsonValue, ...], Prop("Positional arguments.", max_items=256)] = ()
    kwargs: Annotated[
        JsonObject,
        Prop(
            "Keyword arguments. `kubectl apply` drops nulls inside; `kubectl apply --server-side` keeps them."
        ),
    ] = field(default_factory=dict)
    queue: Annotated[
        str,
        Prop(
            "A TaskQueue's name.",
            pattern=NAME_PATTERN,
            sentence="must be the name of a TaskQueue in this namespace",
            max_length=253,
        ),
    ]
    options: Annotated[Options, Prop("How it is sent.")] = field(default_factory=Options)
    schedule: Annotated[
        str | None,
        Prop(
            "A cron line of five fields, or @hourly and its like.",
            pattern=CRON_PATTERN,
            sentence=CRON_SENTENCE,
            max_length=100,
        ),
    ] = None
    every: Annotated[
        timedelta | None, Prop("An interval, at least one second.", at_least=timedelta(seconds=1))
    ] = None
    solar: Annotated[Solar | None, Prop("An event of the sun.")] = None
    time_zone: Annotated[
        str,
        Prop(
            "The cron line's zone, such as Europe/Berlin.",
            pattern=ZONE_PATTERN,
            sentence=ZONE_SENTENCE,
            max_length=64,
        ),
    ] = "Etc/UTC"
    suspend: Annotated[bool, Prop("Nothing is sent while true.")] = False
    starting_deadline_seconds: Annotated[
        int | None,
        Prop(
            "A due time older than this is missed for good; by default none is.",
            minimum=1,
            maximum=31_536_000,
        ),
    ] = None
    catch_up: Annotated[CatchUp, Prop("What becomes of due times that were missed.")] = CatchUp.LAST
    concurrency_policy: Annotated[
        ConcurrencyPolicy, Prop("Whether a run may begin while the one before is not finished.")
    ] = ConcurrencyPolicy.ALLOW

    @rule(
        "[has(self.schedule), has(self.every), has(self.solar)].filter(given, given).size() == 1",
        "exactly one of schedule, every and solar says when to run",
    )
    def one_thing_says_when(self) -> bool:
        return [self.schedule, self.every, self.solar].count(None) == 2


@dataclass(frozen=True, kw_only=True)
class Run:
    """One due time and the task that was or will be sent for it."""

    time: Annotated[datetime, Prop("The due time.")]
    task_id: Annotated[str, Prop("The task's id.", max_length=253)]


@dataclass(frozen=True, kw_only=True)
class ScheduleStatus:
    """What was sent last and will be next."""

    observed_generation: Annotated[
        int | None, Prop("The generation that this status speaks of.", minimum=0)
    ] = None
    conditions: Annotated[
        tuple[Condition, ...],
        Prop("What is true of it.", list_type="map", list_map_keys=("type",), max_items=32),
    ] = ()
    timing: Annotated[str | None, Prop("When it runs, in one line.", max_length=253)] = None
    last_run: Annotated[Run | None, Prop("The latest run.")] = None
    next_run: Annotated[Run | None, Prop("The run to come.")] = None
    missed: Annotated[int | None, Prop("Due times that were left out.", minimum=0)] = None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A task that is sent again and again."""

    metadata: ObjectMeta
    spec: ScheduleSpec
    status: ScheduleStatus = field(default_factory=ScheduleStatus)


SCHEDULE = Kind(
    cls=Schedule,
    plural="schedules",
    short_name="sched",
    columns=(
        READY,
        Column(name="When", path=".status.timing"),
        Column(name="Zone", path=".spec.timeZone"),
        Column(name="Suspended", path=".spec.suspend", type="boolean"),
        Column(name="Last", path=".status.lastRun.time", type="date"),
        Column(name="Next", path=".status.nextRun.time"),
        Column(name="Task", path=".spec.task", wide=True),
        Column(name="Queue", path=".spec.queue", wide=True),
        REASON,
        AGE,
    ),
)
