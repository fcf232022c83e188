"""What becomes of each field of a TaskQueue on each broker: the one place where that is written down.

The reference page `docs/reference/brokers.md`, the sentences of the rules in `taskqueue`, the conditions that
say what has no effect, and `muster dev`'s notes are all made of `FIELDS`. Pure data: it knows no broker, no
manifest and no decision.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Column(StrEnum):
    """A broker as a TaskQueue's fields see it."""

    QUORUM_3 = "Quorum 3.10"
    QUORUM_4 = "Quorum 4"
    CLASSIC_3 = "Classic 3"
    CLASSIC_4 = "Classic 4"
    REDIS = "Redis"
    SQLITE = "SQLite"


class Way(StrEnum):
    """How a field is kept."""

    POLICY = "policy"
    ARGUMENT = "argument"
    ENGINE = "engine"
    REFUSED = "refused"
    CONDITION = "condition"


MEANINGS: Final[Mapping[Way, str]] = {
    Way.POLICY: "the operator writes a policy on the broker, reads its effect back and repairs it",
    Way.ARGUMENT: "it is an argument of the queue's declaration, and cannot change while the queue exists",
    Way.ENGINE: "Muster's workers or its operator do it themselves",
    Way.REFUSED: "the manifest is refused, with a sentence",
    Way.CONDITION: "it has no effect there, and a condition says so and what holds in its place",
}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How one broker keeps one field."""

    way: Way
    words: str = ""
    """What it is called there; for `condition`, what holds in its place; for `refused`, the sentence."""
    since: tuple[int, int] | None = None
    """The version from which on; an older one has the condition with `instead`."""
    instead: str = ""
    """What holds where it is not kept: before `since`, or where the manifest did not name the type."""


@dataclass(frozen=True, kw_only=True)
class FieldRow:
    """A field of TaskQueue's spec on all brokers."""

    name: str
    on: Mapping[Column, Kept]


RABBITMQ: Final = (Column.QUORUM_3, Column.QUORUM_4, Column.CLASSIC_3, Column.CLASSIC_4)
OTHERS: Final = (Column.REDIS, Column.SQLITE)


def _row(name: str, *kept: tuple[tuple[Column, ...], Kept]) -> FieldRow:
    on = {column: each for columns, each in kept for column in columns}
    missing = set(Column) - set(on)
    if missing:
        raise TypeError(f"{name} says nothing of {sorted(missing)}")
    return FieldRow(name=name, on=on)


_ENGINE: Final = Kept(way=Way.ENGINE)
HA_REFUSED: Final = (
    "ha is the number of copies that RabbitMQ keeps of a queue: leave it out for a queue on Redis"
)
PRIORITIES_REFUSED: Final = (
    "maxPriority is an argument of RabbitMQ's classic queues: set type: Classic, or leave it out; Quorum "
    "queues of RabbitMQ 4 tell two priorities apart, and queues on Redis four, without it"
)
_STEPS: Final = "priorities are told apart in four steps, 0 is served first"
_OWN_COPIES: Final = "copies are made by the broker's own replication"

FIELDS: Final[tuple[FieldRow, ...]] = (
    _row(
        "type",
        ((Column.QUORUM_3, Column.QUORUM_4), Kept(way=Way.ARGUMENT, words="`x-queue-type`: `quorum`")),
        (
            (Column.CLASSIC_3, Column.CLASSIC_4),
            Kept(way=Way.ARGUMENT, words="none; `x-queue-type`: `classic` where quorum is the default"),
        ),
        (OTHERS, _ENGINE),
    ),
    _row(
        "messageTTL",
        (RABBITMQ, Kept(way=Way.POLICY, words="`message-ttl`; quorum: with `dead-letter-strategy`")),
        (OTHERS, Kept(way=Way.CONDITION, words="send tasks with expires, which does the same")),
    ),
    _row(
        "maxLength",
        (RABBITMQ, Kept(way=Way.POLICY, words="`max-length`")),
        (
            OTHERS,
            Kept(way=Way.CONDITION, words="the queue may grow as long as the broker has room"),
        ),
    ),
    _row(
        "overflow",
        (RABBITMQ, Kept(way=Way.POLICY, words="`overflow`")),
        (OTHERS, Kept(way=Way.CONDITION, words="no message is refused")),
    ),
    _row(
        "maxPriority",
        (
            (Column.QUORUM_3,),
            Kept(way=Way.REFUSED, words=PRIORITIES_REFUSED, instead="all messages are alike"),
        ),
        (
            (Column.QUORUM_4,),
            Kept(way=Way.REFUSED, words=PRIORITIES_REFUSED, instead="priorities above 4 are served first"),
        ),
        (
            (Column.CLASSIC_3, Column.CLASSIC_4),
            Kept(way=Way.ARGUMENT, words="`x-max-priority`; the highest is served first"),
        ),
        ((Column.REDIS,), Kept(way=Way.REFUSED, words=PRIORITIES_REFUSED, instead=_STEPS)),
        ((Column.SQLITE,), Kept(way=Way.CONDITION, words=_STEPS)),
    ),
    _row(
        "deadLetter",
        (RABBITMQ, Kept(way=Way.POLICY, words="a queue of the same type; `dead-letter-exchange`, bounds")),
        (OTHERS, Kept(way=Way.ENGINE, words="a stream or table, bounded by the workers")),
    ),
    _row(
        "deliveryLimit",
        (
            (Column.QUORUM_4,),
            Kept(way=Way.ENGINE, words="the broker's own count is off: policy `delivery-limit` -1"),
        ),
        ((Column.QUORUM_3, Column.CLASSIC_3, Column.CLASSIC_4, *OTHERS), _ENGINE),
    ),
    _row(
        "ha",
        (
            (Column.QUORUM_3, Column.QUORUM_4),
            Kept(way=Way.ARGUMENT, words="`x-quorum-initial-group-size`; the members are counted"),
        ),
        ((Column.CLASSIC_3,), Kept(way=Way.POLICY, words="`ha-mode`: `exactly`")),
        (
            (Column.CLASSIC_4,),
            Kept(
                way=Way.CONDITION,
                words="RabbitMQ 4 mirrors no classic queues: make a TaskQueue of type Quorum",
            ),
        ),
        ((Column.REDIS,), Kept(way=Way.REFUSED, words=HA_REFUSED, instead=_OWN_COPIES)),
        ((Column.SQLITE,), Kept(way=Way.CONDITION, words=_OWN_COPIES)),
    ),
    _row(
        "consumerTimeout",
        (
            RABBITMQ,
            Kept(
                way=Way.POLICY,
                words="`consumer-timeout`",
                since=(3, 12),
                instead="the server's own consumer_timeout holds; workers renew what they hold",
            ),
        ),
        (
            OTHERS,
            Kept(
                way=Way.CONDITION,
                words="a task is its worker's while the lease is renewed; "
                "limits.timeLimit of the pool ends it",
            ),
        ),
    ),
    _row(
        "deletionPolicy",
        (
            (Column.QUORUM_3, Column.QUORUM_4),
            Kept(
                way=Way.CONDITION,
                words="RabbitMQ cannot delete a quorum queue only if it is empty, so it stays",
            ),
        ),
        (
            (Column.CLASSIC_3, Column.CLASSIC_4),
            Kept(way=Way.ENGINE, words="`queue.delete` with `if-empty` and `if-unused`"),
        ),
        (OTHERS, _ENGINE),
    ),
)
"""In the order of the spec."""

LIMITS: Final = ("messageTTL", "maxLength", "overflow", "maxPriority", "ha", "consumerTimeout")
"""The fields that the condition LimitsEnforced speaks of."""


def kept(field: str, column: Column) -> Kept:
    """Return how a broker keeps a field."""
    return next(row for row in FIELDS if row.name == field).on[column]


def unkept(field: str, column: Column, version: tuple[int, int] | None = None) -> str:
    """Return what holds in the place of a field that is set and has no effect; empty when it has one.

    `version` None: the newest.
    """
    found = kept(field, column)
    if found.way is Way.CONDITION:
        return found.words
    if found.way is Way.REFUSED:
        return found.instead
    if found.since is not None and version is not None and version < found.since:
        return found.instead
    return ""


def cell(found: Kept) -> str:
    """Return a cell of the table."""
    text = f"{found.way}: {found.words}" if found.words else str(found.way)
    if found.since is None:
        return text
    older = ".".join(map(str, found.since))
    return f"{text} from {older} on; before, condition: {found.instead}"


def brokers_page(command: str) -> str:
    """Return docs/reference/brokers.md."""
    head = ("Field", *Column)
    rows = [(f"`{row.name}`", *(cell(row.on[column]) for column in Column)) for row in FIELDS]
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n\n".join(
            [
                f"<!-- Made of operator/muster_operator/api/brokers.py by `{command}`. Change that file. -->",
                "# TaskQueue's fields, broker by broker",
                "\n".join(f"- **{way}**: {MEANINGS[way]}." for way in Way),
                "\n".join(f"| {' | '.join(cells)} |" for cells in lines),
                (
                    "What a field means stands in [resources.md](resources.md), how the operator keeps "
                    "RabbitMQ in [rabbitmq.md](../rabbitmq.md)."
                ),
            ]
        )
        + "\n"
    )
