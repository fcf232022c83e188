"""What a scope's log on RabbitMQ is made of: names, records, and the run that a tick's message carries.

The log is a stream, read from anywhere without taking anything out. Whoever changes something appends to it;
what stands in a scope is what its log says, read in order (`muster.transports.schedules.book`). A tick is
not a record of its own: the task's message itself goes into its queue and into the log in one step, and says
what its schedule's run record is from then on. It says so in properties of AMQP that tasks do not use: a
header would pass for one of the user's, and a retry would carry it on.
"""

from datetime import datetime
from typing import Final

import msgspec

from muster.wire.schedule import RunRecord, instant, microseconds

KEPT_BYTES: Final = 128 * 1024 * 1024
SEGMENT_BYTES: Final = 8 * 1024 * 1024
LOG_ARGUMENTS: Final[dict[str, str | int]] = {
    "x-queue-type": "stream",
    "x-max-length-bytes": KEPT_BYTES,
    "x-stream-max-segment-size-bytes": SEGMENT_BYTES,
}
LOCK_ARGUMENTS: Final[dict[str, str | int]] = {"x-queue-type": "classic", "x-max-length": 0}
WITNESS_ARGUMENTS: Final[dict[str, str | int]] = {"x-queue-type": "classic", "x-max-length": 1}

TICK: Final = "muster.tick"
"""AMQP's property `type` of a tick's message."""
COPY_HEADER: Final = "BCC"
"""RabbitMQ's: further routing keys of a message, taken out before it is delivered."""


def log_of(scope: str) -> str:
    """Return the name of the stream that is a scope's log."""
    return f"muster.schedules.{scope}"


def lock_of(scope: str) -> str:
    """Return the name of the exclusive queue whose owner leads. It takes no message."""
    return f"muster.beat.{scope}"


def witness_of(scope: str) -> str:
    """Return the name of the queue with one message that does not outlive the broker's node."""
    return f"muster.beat_witness.{scope}"


class TermNote(msgspec.Struct, frozen=True, array_like=True):
    """Who leads, or has led last."""

    holder: str
    number: int
    lease_seconds: float
    over: bool = False
    """It was given up in good order."""


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """What stands there of one schedule, said again so that what is older can be forgotten.

    It says nothing new: whoever knows of something later than `put_at` or `run_at` stays with that.
    """

    uid: str
    put_at: int
    entry: msgspec.Raw
    run_at: int = -1
    run: RunRecord | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of the log. A writer says one or two of these things at a time."""

    put: dict[str, msgspec.Raw] = {}
    """uid → entry, `muster.wire.schedule.ScheduleEntry`."""
    removed: list[str] = []
    runs: dict[str, RunRecord] = {}
    """Run records that are not those of a tick's message."""
    kept: list[Kept] = []
    term: TermNote | None = None
    sure: bool = False
    """The ticks before this are confirmed, or taken back by its `runs`."""
    first: int | None = None
    """From this offset on the log says all: nobody need read what is before it."""
    fence: str = ""
    """For who has written it: what was written before has been read when this is."""


class TickRun(msgspec.Struct, frozen=True):
    """What a tick's message says besides."""

    uid: str
    run: RunRecord
    first: int


class _Short(msgspec.Struct, frozen=True, array_like=True):
    """The same but the uid, in the 255 bytes of a property. Times are microseconds since 1970."""

    first: int
    settled_at: int | None
    last_at: int | None
    last_id: str | None
    next_at: int | None
    next_id: str | None
    missed: int


_encoder = msgspec.json.Encoder()
decode_record = msgspec.json.Decoder(Record).decode
_decode_short = msgspec.json.Decoder(_Short).decode


def encode(record: Record) -> bytes:
    """Return the JSON form."""
    return _encoder.encode(record)


def write_tick(tick: TickRun) -> tuple[str, str]:
    """Return AMQP's `message_id` and `app_id` of a tick's message."""
    run = tick.run
    short = _Short(
        tick.first,
        _micros(run.settled_at),
        _micros(run.last_at),
        run.last_id,
        _micros(run.next_at),
        run.next_id,
        run.missed,
    )
    return tick.uid, _encoder.encode(short).decode()


def read_tick(message_id: str | None, app_id: str | None) -> TickRun:
    """Return what `write_tick` wrote. Raises msgspec.DecodeError for anything else."""
    short = _decode_short(app_id or "")
    run = RunRecord(
        settled_at=_time(short.settled_at),
        last_at=_time(short.last_at),
        last_id=short.last_id,
        next_at=_time(short.next_at),
        next_id=short.next_id,
        missed=short.missed,
    )
    return TickRun(message_id or "", run, short.first)


def _micros(instant: datetime | None) -> int | None:
    return None if instant is None else microseconds(instant)


def _time(micros: int | None) -> datetime | None:
    return None if micros is None else instant(micros)
