"""Schedule: a task that is sent again and again, by cron line, interval or sun."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from .conditions import Condition
from .meta import JsonObject, JsonValue, Prop
from .objects import ObjectMeta


class SolarEvent(StrEnum):
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


class CatchUp(StrEnum):
    """What becomes of due times that were missed."""

    NONE = "None"
    """They are left out."""
    LAST = "Last"
    """The latest is sent."""
    ALL = "All"
    """All are sent, at most 100."""


class ConcurrencyPolicy(StrEnum):
    """Whether a run may begin while the one before is not finished."""

    ALLOW = "Allow"
    FORBID = "Forbid"
    """The due time is left out; needs results on the queue's pool."""


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
        int | None, Prop("Higher goes first, as far as the queue has priorities.", minimum=0, maximum=255)
    ] = None
    expires: Annotated[timedelta | None, Prop("A run that has not started by then is left out.")] = None
    headers: Annotated[Mapping[str, str], Prop("Headers of the message.", max_items=64, max_length=1024)] = (
        field(default_factory=dict)
    )


@dataclass(frozen=True, kw_only=True)
class ScheduleSpec:
    """What is sent, and when."""

    task: Annotated[str, Prop("The task's name.", min_length=1, max_length=253)]
    args: Annotated[tuple[JsonValue, ...], Prop("Positional arguments.", max_items=256)] = ()
    kwargs: Annotated[JsonObject, Prop("Keyword arguments.")] = field(default_factory=dict)
    queue: Annotated[str, Prop("A TaskQueue's name.", min_length=1, max_length=253)]
    options: Annotated[Options, Prop("How it is sent.")] = field(default_factory=Options)
    schedule: Annotated[
        str | None, Prop("A cron line of five fields, or @hourly and its like.", max_length=100)
    ] = None
    every: Annotated[timedelta | None, Prop("An interval, at least one second.")] = None
    solar: Annotated[Solar | None, Prop("An event of the sun.")] = None
    time_zone: Annotated[str, Prop("The cron line's zone, such as Europe/Berlin.", max_length=64)] = "Etc/UTC"
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
