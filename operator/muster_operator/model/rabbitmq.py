"""A virtual host of RabbitMQ as the operator wants it and as it was read. Values without effects.

`decide.rabbitmq` makes what is wanted, `adapters.rabbitmq` reads what there is, actions carry what is to be
done. Nothing here knows a connection.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from .readings import Reading

DEAD_LETTERS: Final = "muster.dead"
"""The exchange to which queues give their dead letters."""
UNCLAIMED: Final = "muster.dead.other"
"""The queue of dead letters that nothing tells where they belong, and the exchange before it."""

Arguments: TypeAlias = Mapping[str, Any]
"""Of a declaration, or a policy's definition."""


@dataclass(frozen=True, kw_only=True)
class QueueDeclaration:
    """A durable queue that shall be there."""

    name: str
    arguments: Arguments = field(default_factory=dict)
    dead_letters_of: tuple[str, ...] = ()
    """The queues whose dead letters come here."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy on queues, wanted or found."""

    name: str
    pattern: str
    definition: Arguments
    priority: int
    apply_to: str = "queues"


@dataclass(frozen=True, kw_only=True)
class FoundQueue:
    """What the management API says of a queue."""

    arguments: Arguments = field(default_factory=dict)
    policy: str = ""
    operator_policy: str = ""
    effective: Arguments = field(default_factory=dict)
    """The definition that is in force, of both policies."""
    members: int | None = None
    """None: its type has none."""
    online: int | None = None
    dead_letters_of: frozenset[str] = frozenset()
    """The queues whose dead letters are led here."""


@dataclass(frozen=True, kw_only=True)
class Management:
    """What the management API says of the virtual host."""

    queues: Mapping[str, FoundQueue] = field(default_factory=dict)
    policies: tuple[Policy, ...] = ()
    """Everybody's."""
    default_type: str = ""
    """What a queue is that is declared without a type; empty: not known, or as the server has it."""
    foreign_classic: bool = False
    """Whether durable classic queues are there that were not asked for."""
    may_write_policies: bool = False
    may_set_default_type: bool = False
    user: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server said to a declaration; `code` 0: it is there as declared."""

    declaration: QueueDeclaration
    code: int = 0
    words: str = ""


@dataclass(frozen=True, kw_only=True)
class VirtualHost:
    """What was read of a virtual host."""

    asked: frozenset[str] | None = None
    """Which queues were looked for; None: all that are wanted. Of any other nothing is known yet."""
    there: frozenset[str] = frozenset()
    """Which of the queues that were asked for exist."""
    led: bool = True
    """Whether the exchanges are there that lead dead letters to their queues."""
    answers: Mapping[str, Answer] = field(default_factory=dict)
    """By queue, what this process was answered last; none of one that is gone, or was refused long ago."""
    alarm: str = ""
    """The server's words when it takes no messages now."""
    management: Reading[Management]
