"""A Picture on a terminal, drawn with rich.

`dev.terminal` shows it while a session runs and writes it as SVG. It knows the words and figures of
`dev.picture` and where they fit: on a narrow terminal the columns of least use go first. All tables have
names of one width and figures of another, so that figures stand below figures.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal, TypeAlias

from rich import box
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from .picture import Picture, PoolRow, age, ago, ahead, number, slots, why

WIDEST: Final = 130
WIDE: Final = 125
"""From so many columns on a decision stands in its pool's row, else below the table."""
NARROW: Final = 72
"""Below, what is of least use is left out."""
TINY: Final = 52
NAME: Final = 8
"""Least room for a name, and for the longest title above names."""
FIGURE: Final = 8

Kind: TypeAlias = Literal["name", "figure", "text"]
Column: TypeAlias = tuple[str, Kind]


def draw(picture: Picture, width: int) -> RenderableType:
    """Return what to show on a terminal of `width` columns."""
    width = min(width, WIDEST)
    rows = [row.name for table in (picture.queues, picture.pools, picture.schedules) for row in table]
    names = max(NAME, min(max(map(len, rows), default=0), width // 4))
    parts: list[RenderableType] = [_head(picture, width)]
    if picture.queues:
        parts += ["", _queues(picture, width, names)]
    if picture.pools:
        parts += ["", _pools(picture, width, names)]
    if picture.schedules:
        parts += ["", _schedules(picture, width, names)]
    troubles = [*_problems(picture), *picture.troubles]
    if troubles:
        parts += ["", *(Text(f"! {each}", style="bold red", overflow="fold") for each in troubles)]
    return Constrain(Group(*parts), width)


def _head(picture: Picture, width: int) -> RenderableType:
    running = age((picture.now - picture.since).total_seconds())
    left = Text.assemble(("muster dev ", "bold"), (picture.title, "bold cyan"), f"  {running} ")
    if picture.ended:
        hint = Text("ended", style="dim")
    elif picture.draining:
        hint = Text("draining; Ctrl-C ends at once", style="bold yellow")
    else:
        hint = Text("Ctrl-C drains and leaves", style="dim")
    head = Table.grid(expand=True)
    head.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    head.add_column(justify="right", no_wrap=True)
    head.add_row(left, hint)
    if width < NARROW:
        return head
    places = picture.broker + (f" · logs in {picture.logs}" if picture.logs else "")
    return Group(head, Text(places, style="dim", no_wrap=True, overflow="ellipsis"))


def _table(names: int, columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for title, kind in columns:
        table.add_column(
            title,
            justify="right" if kind == "figure" else "left",
            min_width={"name": names, "figure": FIGURE, "text": 0}[kind],
            max_width=names if kind == "name" else None,
            no_wrap=True,
            overflow="ellipsis",
            header_style="bold dim",
        )
    return table


def _queues(picture: Picture, width: int, names: int) -> RenderableType:
    roomy = width >= NARROW
    columns: list[Column] = [("QUEUE", "name"), ("READY", "figure"), ("RUNNING", "figure")]
    if roomy:
        columns.append(("WAITING", "figure"))
    columns.append(("DEAD", "figure"))
    if roomy:
        columns.append(("OLDEST", "figure"))
    table = _table(names, columns)
    for row in picture.queues:
        cells = [Text(row.name), _figure(row.ready, "bold yellow"), _figure(row.running, "bold green")]
        if roomy:
            cells.append(_figure(row.waiting, ""))
        cells.append(_figure(row.dead, "bold red"))
        if roomy:
            cells.append(Text(age(row.oldest_seconds)))
        table.add_row(*cells)
    return table


def _pools(picture: Picture, width: int, names: int) -> RenderableType:
    roomy, wide = width >= NARROW, width >= WIDE
    columns: list[Column] = [("POOL", "name"), ("DESIRED", "figure"), ("READY", "figure"), ("BUSY", "figure")]
    if roomy:
        columns.append(("DONE", "figure"))
    if width >= TINY:
        columns.append(("TASKS/S", "figure"))
    if wide:
        columns.append(("LAST DECISION", "text"))
    table = _table(names, columns)
    for row in picture.pools:
        cells = [Text(row.name), _figure(row.desired, "bold"), _ready(row), Text(slots(row))]
        if roomy:
            cells.append(_figure(row.done, ""))
        if width >= TINY:
            cells.append(Text(f"{row.per_second:,.0f}"))
        if wide:
            cells.append(_decision(row, picture))
        table.add_row(*cells)
    if wide:
        return table
    below = [
        Text.assemble((f"{row.name} ", "dim"), _decision(row, picture), overflow="ellipsis", no_wrap=True)
        for row in picture.pools
        if row.decision is not None
    ]
    return Group(table, *below)


def _ready(row: PoolRow) -> Text:
    style = "yellow" if row.ready < row.desired else "bold green" if row.ready else "dim"
    leaving = f" -{row.leaving}" if row.leaving else ""
    return Text.assemble((number(row.ready), style), (leaving, "magenta"))


def _decision(row: PoolRow, picture: Picture) -> Text:
    decision = row.decision
    if decision is None:
        return Text("-", style="dim")
    return Text.assemble(
        (f"{decision.from_} → {decision.to} ", "bold"),
        (f"{ago(decision.time, picture.now)}, ", "dim"),
        why(decision),
    )


def _schedules(picture: Picture, width: int, names: int) -> RenderableType:
    columns: list[Column] = [("SCHEDULE", "name"), ("LAST RUN", "figure"), ("NEXT RUN", "figure")]
    if width >= NARROW:
        columns.append(("WHEN", "text"))
    table = _table(names, columns)
    for row in picture.schedules:
        cells = [
            Text(row.name),
            Text(ago(row.last_at, picture.now)),
            Text("suspended" if row.suspended else ahead(row.next_at, picture.now)),
        ]
        if width >= NARROW:
            cells.append(Text(row.timing))
        table.add_row(*cells)
    return table


def _problems(picture: Picture) -> Iterator[str]:
    for kind, rows in (("queue", picture.queues), ("schedule", picture.schedules)):
        for row in rows:
            if row.problem:
                yield f"{kind} {row.name}: {row.problem}"


def _figure(count: int | None, style: str) -> Text:
    return Text(number(count), style=style if count else "dim")
