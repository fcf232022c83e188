"""What a scope's log on RabbitMQ is made of: names, records, and the run that a tick's message carries.

The log is a stream, read from anywhere without taking anything out. Whoever changes something appends to it;
what stands in a scope is what its log says, read in order (`muster.transports.schedules.book`). A tick is
not a record of its own: the task's message itself goes into its queue and into the log in one step, and says
in a header what its schedule's run record is from then on.
"""

from typing import Final

import msgspec

from muster.wire.schedule import RunRecord

KEPT_BYTES: Final = 128 * 1024 * 1024
SEGMENT_BYTES: Final = 8 * 1024 * 1024
LOG_ARGUMENTS: Final[dict[str, str | int]] = {
    "x-queue-type": "stream",
    "x-max-length-bytes": KEPT_BYTES,
    "x-stream-max-segment-size-bytes": SEGMENT_BYTES,
}
LOCK_ARGUMENTS: Final[dict[str, str | int]] = {"x-queue-type": "classic", "x-max-length": 0}
WITNESS_ARGUMENTS: Final[dict[str, str | int]] = {"x-queue-type": "classic", "x-max-length": 1}

RUN_HEADER: Final = "x-muster-run"
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


class TickRun(msgspec.Struct, frozen=True, array_like=True):
    """What the header of a tick's message says."""

    uid: str
    run: RunRecord
    first: int


_encoder = msgspec.json.Encoder()
decode_record = msgspec.json.Decoder(Record).decode
decode_tick = msgspec.json.Decoder(TickRun).decode


def encode(value: Record | TickRun) -> bytes:
    """Return the JSON form."""
    return _encoder.encode(value)
