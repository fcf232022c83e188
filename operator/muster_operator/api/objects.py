"""Fields that several kinds share: metadata, references to Secrets, the figures of a queue."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from .meta import Prop

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


@dataclass(frozen=True, kw_only=True)
class ObjectMeta:
    """What Muster reads of an object's metadata."""

    name: Annotated[str, Prop("The object's name.")]
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

    name: Annotated[str, Prop("The Secret's name.", pattern=NAME_PATTERN, min_length=1, max_length=253)]


class Source(StrEnum):
    """How a figure was obtained."""

    MEASURED = "Measured"
    """Read from the messages or the broker itself."""
    TRACKED = "Tracked"
    """Followed from poll to poll by the newest message."""
    ESTIMATED = "Estimated"
    """Derived from depth and start rate."""
