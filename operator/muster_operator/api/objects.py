"""Fields that several kinds share: metadata, references to Secrets, the figures of a queue."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from .meta import Prop, Word

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
NAME_SENTENCE = "must be the name of an object: lower-case letters, digits, - and ."

CRON_PATTERN = (
    r"^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)"
    r"|[0-9*/,-]+ +[0-9*/,-]+ +[0-9*/,-]+ +[0-9A-Za-z*/,-]+ +[0-9A-Za-z*/,-]+)$"
)
CRON_SENTENCE = (
    "a cron line has five fields (minute, hour, day of month, month, day of week), such as "
    "*/5 8-18 * * mon-fri, or is @hourly, @daily, @weekly, @monthly or @yearly; "
    "the zone stands in timeZone, never in the line"
)
ZONE_PATTERN = r"^[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$"
ZONE_SENTENCE = "timeZone is a name of the time zone database, such as Europe/Berlin or Etc/UTC"


@dataclass(frozen=True, kw_only=True)
class ObjectMeta:
    """What Muster reads of an object's metadata."""

    name: Annotated[
        str, Prop("The object's name.", pattern=NAME_PATTERN, sentence=NAME_SENTENCE, max_length=253)
    ]
    namespace: Annotated[str, Prop("Its namespace.")] = "default"
    uid: Annotated[str, Prop("Its identity over renames and re-creations.")] = ""
    generation: Annotated[int, Prop("Counts changes of the spec.")] = 0
    resource_version: Annotated[str, Prop("Changes with every write.")] = ""
    labels: Annotated[Mapping[str, str], Prop("Labels.")] = field(default_factory=dict)
    annotations: Annotated[Mapping[str, str], Prop("Annotations.")] = field(default_factory=dict)
    finalizers: Annotated[tuple[str, ...], Prop("What must happen before the object may go.")] = ()
    creation_timestamp: Annotated[datetime | None, Prop("When it was created.")] = None
    deletion_timestamp: Annotated[datetime | None, Prop("Since when it is to go; unset while it stays.")] = (
        None
    )


@dataclass(frozen=True, kw_only=True)
class SecretRef:
    """A Secret in the same namespace."""

    name: Annotated[
        str, Prop("The Secret's name.", pattern=NAME_PATTERN, sentence=NAME_SENTENCE, max_length=253)
    ]


class Source(Word):
    """How a figure was obtained."""

    MEASURED = "Measured", "Read from the messages or the broker itself."
    TRACKED = "Tracked", "Followed from poll to poll: it has waited for at least so long."
    ESTIMATED = "Estimated", "Derived from depth and start rate."
