"""A Picture on a terminal, drawn with rich.

`dev.session` shows it while it runs; `dev.command` writes it as SVG. It knows the words and figures of
`dev.picture` and where they fit: on a narrow terminal the columns of least use go first.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from .picture import Picture, PoolRow, QueueRow, ScheduleRow, age, ago, ahead, number, slots, why

WIDE = 100
"""From so many columns on everything is shown."""
NARROW = 72
"""Below, what is of least use is left out."""
WIDEST = 120
"""What is wider makes figures hard to follow along their row."""


def draw(picture: Picture, width: int) -> RenderableType:
    """Return what to show on a terminal of `width` columns."""
    width = min(width, WIDEST)
    parts: list[RenderableType] = [_head(picture, width)]
    if picture.queues:
        parts += ["", _queues(picture.queues, width)]
    if picture.pools:
        parts += ["", _pools(picture, width)]
    if picture.schedules:
        parts += ["", _schedules(picture, width)]
    if picture.troubles:
        parts.append("")
        parts += [Text(f"! {each}", style="bold red", overflow="fold") for each in picture.troubles]
    return Constrain(Group(*parts), width)


def _head(picture: Picture, width: int) -> RenderableType:
    running = age((picture.now - picture.since).total_seconds())
    left = Text.assemble(("muster dev ", "bold"), (picture.title, "bold cyan"), f"  {running}")
    hint = "draining; Ctrl-C ends at once" if picture.draining else "Ctrl-C drains and leaves"
    head = Table.grid(expand=True)
    head.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    head.add_column(justify="right", no_wrap=True)
    head.add_row(left, Text(hint, style="bold yellow" if picture.draining else "dim"))
    if width < NARROW:
        return head
    return Group(head, Text(picture.broker, style="dim", no_wrap=True, overflow="ellipsis"))


def _table(*columns: tuple[str, str]) -> Table:
    """Return an empty table. Columns are (title, how: `l` text, `r` figure, `w` takes what room is left)."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1), show_edge=False)
    for title, how in columns:
        table.add_column(
            title,
            justify="right" if how == "r" else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if how == "w" else None,
            header_style="bold dim",
            min_width=len(title) if how == "r" else 8,
        )
    return table


def _queues(rows: Sequence[QueueRow], width: int) -> RenderableType:
    wide = width >= NARROW
    aged = wide and any(row.oldest_seconds is not None for row in rows)
    table = _table(
        ("QUEUE", "w"),
        ("READY", "r"),
        ("RUNNING", "r"),
        *((("WAITING", "r"),) if wide else ()),
        ("DEAD", "r"),
        *((("OLDEST", "r"),) if aged else ()),
    )
    for row in rows:
        name = Text.assemble(row.name, (f"  {row.problem}", "red") if row.problem else "")
        table.add_row(
            name,
            _figure(row.ready, "bold yellow"),
            _figure(row.running, "bold green"),
            *((_figure(row.waiting, ""),) if wide else ()),
            _figure(row.dead, "bold red"),
            *((age(row.oldest_seconds),) if aged else ()),
        )
    return table


def _pools(picture: Picture, width: int) -> RenderableType:
    wide, room = width >= NARROW, width >= WIDE
    table = _table(
        ("POOL", "l" if room else "w"),
        ("DESIRED", "r"),
        ("READY", "r"),
        ("BUSY", "r"),
        *((("DONE", "r"),) if wide else ()),
        ("TASKS/S", "r"),
        *((("LAST DECISION", "w"),) if room else ()),
    )
    for row in picture.pools:
        table.add_row(
            Text(row.name),
            _figure(row.desired, "bold"),
            _ready(row),
            slots(row),
            *((number(row.done),) if wide else ()),
            f"{row.per_second:,.0f}",
            *((_decision(row, picture),) if room else ()),
        )
    if room:
        return table
    said = [
        Text.assemble((f"{row.name} ", "dim"), _decision(row, picture), overflow="ellipsis", no_wrap=True)
        for row in picture.pools
        if row.decision is not None or row.problem
    ]
    return Group(table, *said)


def _ready(row: PoolRow) -> Text:
    style = "bold green" if row.ready >= row.desired > 0 else "" if row.ready >= row.desired else "yellow"
    leaving = f" -{row.leaving}" if row.leaving else ""
    return Text.assemble((number(row.ready), style), (leaving, "magenta"))


def _decision(row: PoolRow, picture: Picture) -> Text:
    if row.problem:
        return Text(row.problem, style="red")
    decision = row.decision
    if decision is None:
        return Text("-", style="dim")
    return Text.assemble(
        (f"{decision.from_} → {decision.to} ", "bold"),
        why(decision),
        (f", {ago(decision.time, picture.now)}", "dim"),
    )


def _schedules(picture: Picture, width: int) -> RenderableType:
    wide = width >= NARROW
    table = _table(
        ("SCHEDULE", "w"), *((("WHEN", "l"),) if wide else ()), ("LAST RUN", "r"), ("NEXT RUN", "r")
    )
    for row in picture.schedules:
        table.add_row(
            _schedule_name(row),
            *((row.timing,) if wide else ()),
            ago(row.last_at, picture.now),
            "suspended" if row.suspended else ahead(row.next_at, picture.now),
        )
    return table


def _schedule_name(row: ScheduleRow) -> Text:
    return Text.assemble(row.name, (f"  {row.problem}", "red") if row.problem else "")


def _figure(count: int | None, style: str) -> Text:
    return Text(number(count), style=style if count else "dim")
