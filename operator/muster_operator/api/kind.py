"""What makes a type a kind of the API: its names, columns, subresources. Each kind's file ends with one."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of `kubectl get`; `wide` ones show with `-o wide` only."""

    name: str
    path: str
    type: Literal["string", "integer", "boolean", "date"] = "string"
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Where the scale subresource finds its three values."""

    spec_replicas: str
    status_replicas: str
    selector: str


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind: the class of its objects (with metadata, spec and status) and how a cluster shows them."""

    cls: type
    plural: str
    short_name: str
    columns: tuple[Column, ...]
    scale: Scale | None = None

    @property
    def name(self) -> str:
        """The kind's name in manifests."""
        return self.cls.__name__

    @property
    def singular(self) -> str:
        """The kind's name on the command line."""
        return self.name.lower()


def condition_column(name: str, condition: str, *, wide: bool = False) -> Column:
    """Return a column that shows the status of a condition."""
    return Column(name=name, path=f'.status.conditions[?(@.type=="{condition}")].status', wide=wide)


READY = condition_column("Ready", "Ready")
REASON = Column(name="Reason", path='.status.conditions[?(@.type=="Ready")].reason', wide=True)
AGE = Column(name="Age", path=".metadata.creationTimestamp", type="date")
