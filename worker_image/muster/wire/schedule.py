"""A schedule as it stands on the broker, and what beat writes back of it (DESIGN §7).

Written by the operator for a Schedule, by `muster beat` for an application's `beat_schedule`; read by
beat. The run record goes the other way: written by beat in the same step as the tick, read by the
operator and the command line. Nothing here knows when a schedule is due; that is `muster.core.schedule`.
"""

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
Seconds = Annotated[float, msgspec.Meta(gt=0, lt=1e10)]

_TICKS = uuid.uuid5(uuid.NAMESPACE_DNS, "tick.muster.dev")
"""Namespace of tick ids. It is part of the wire: another one would make every due time new."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SolarEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the sun's day, in Celery's words, at a place in degrees north and east."""

    event: str
    latitude: float
    longitude: float


class ScheduleEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One schedule. Exactly one of `cron`, `every_seconds` and `solar` says when it is due."""

    uid: str
    """What tick ids derive from: the Schedule's UID, or one made from the application and the entry."""
    name: str
    """`namespace/name` of the Schedule, or the key in `beat_schedule`; for logs, metrics and people."""
    task: str
    args: tuple[Any, ...] = ()
    """JSON values; types beyond JSON in the form of `wire.values`."""
    kwargs: dict[str, Any] = {}
    """As `args`."""
    queue: str | None = None
    """The queue's real name; None: where the application routes the task."""
    options: dict[str, Any] = {}
    """How it is sent, in Celery's names: `priority`, `expires` in seconds after the due time, `headers`."""
    cron: str | None = None
    """Cron text, see `muster.core.cron`."""
    days: Literal["Either", "Both"] = "Either"
    """How the cron text's two day fields combine: Unix's way or Celery's."""
    every_seconds: Seconds | None = None
    solar: SolarEntry | None = None
    time_zone: str = "UTC"
    """The cron text's zone, an IANA name."""
    suspended: bool = False
    starting_deadline_seconds: Seconds | None = None
    """A due time older than this is missed for good; None: none is."""
    catch_up: Literal["None", "Last", "All"] = "Last"
    concurrency_policy: Literal["Allow", "Forbid"] = "Allow"
    generation: int = 0
    """The generation of the Schedule that this was made from."""
    created_at: Instant
    """The creation of the Schedule; `every_seconds` counts from here."""
    since: Instant
    """No time up to this one is due, see `muster.core.schedule.succeeding`."""

    def __post_init__(self) -> None:
        """Refuse an entry that is never due, or due for two reasons (ValueError)."""
        if [self.cron, self.every_seconds, self.solar].count(None) != 2:
            raise ValueError("exactly one of `cron`, `every_seconds` and `solar` says when a schedule is due")


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What has come of one schedule so far, and what comes next."""

    settled_at: Instant | None = None
    """The high-water mark: each due time up to this one has been sent or missed for good."""
    last_at: Instant | None = None
    """The due time of the latest task sent, and in `last_id` its id."""
    last_id: str | None = None
    next_at: Instant | None = None
    """The next due time and the id that its task will have; None: suspended, or never again."""
    next_id: str | None = None
    missed: int = 0
    """Due times that were left out, in all."""


_decode_entry = msgspec.json.Decoder(ScheduleEntry).decode
_decode_record = msgspec.json.Decoder(RunRecord).decode
_encoder = msgspec.json.Encoder(order="deterministic")


def encode(value: ScheduleEntry | RunRecord) -> bytes:
    """Return the JSON form; equal values have equal bytes, so that bytes tell whether anything changed."""
    return _encoder.encode(value)


def decode_entry(data: bytes) -> ScheduleEntry:
    """Return the entry. Raises msgspec.DecodeError, whose text names the field, for anything else."""
    return _decode_entry(data)


def read_entry(data: bytes) -> tuple[ScheduleEntry | None, str]:
    """Return the entry, or None and what is wrong with it."""
    try:
        return _decode_entry(data), ""
    except msgspec.DecodeError as error:
        return None, str(error)


def decode_record(data: bytes) -> RunRecord:
    """Return the record. Raises msgspec.DecodeError, whose text names the field, for anything else."""
    return _decode_record(data)


def mark_text(mark: datetime | None) -> str:
    """Return a high-water mark as it stands on the broker: microseconds, or - where there is none."""
    return "-" if mark is None else str(microseconds(mark))


def write_run(record: RunRecord) -> bytes:
    """Return a record behind its mark, which a script compares without reading JSON."""
    return b"%s %s" % (mark_text(record.settled_at).encode(), encode(record))


def read_run(data: bytes) -> RunRecord:
    """Return what `write_run` wrote. Of a record that cannot be read the mark remains, and it decides.

    Raises ValueError when there is not even a mark.
    """
    mark, _, document = data.partition(b" ")
    settled_at = instant(int(mark)) if mark != b"-" else None
    try:
        record = decode_record(document)
    except msgspec.DecodeError:
        record = RunRecord()
    return record if record.settled_at == settled_at else RunRecord(settled_at=settled_at)


def tick_id(uid: str, due_at: datetime) -> str:
    """Return the id of the task that the schedule `uid` sends for `due_at`: whoever asks, the same one."""
    return str(uuid.uuid5(_TICKS, f"{uid} {microseconds(due_at)}"))


def instant(micros: int) -> datetime:
    """Return the time that `microseconds` has written."""
    return _EPOCH + timedelta(microseconds=micros)


def microseconds(instant: datetime) -> int:
    """Return whole microseconds since 1970 in UTC: the form in which high-water marks are compared."""
    return (instant - _EPOCH) // timedelta(microseconds=1)
