"""Where a session is shown: on a terminal, in plain lines, and at the end as a picture in a file.

`dev.command` chooses. The words and their places are `dev.lines`' and `dev.view`'s.
"""

import io
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from .lines import Told, news
from .picture import Picture, clock
from .session import Show
from .view import draw

PICTURE_WIDTH: Final = 90


class Plain:
    """Lines on standard output, whenever something is new."""

    def __init__(self) -> None:
        self._told = Told()

    def picture(self, picture: Picture) -> None:
        """Print what is new."""
        lines, self._told = news(self._told, picture)
        for line in lines:
            self.event(line, picture.now)

    def event(self, text: str, at: datetime) -> None:
        """Print it with its time."""
        click.echo(f"{clock(at)} {text}")

    def line(self, text: str) -> None:
        """Print the line."""
        click.echo(text)


class OnTerminal:
    """The live view; lines scroll by above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def picture(self, picture: Picture) -> None:
        """Draw it in the place of the last one."""
        if not self._live.is_started:
            self._live.start()
        self._live.update(draw(picture, self._console.width), refresh=True)

    def event(self, text: str, at: datetime) -> None:
        """Print it above the view, with its time."""
        self._console.print(Text.assemble((f"{clock(at)} ", "dim"), (text, "yellow")))

    def line(self, text: str) -> None:
        """Print the line above the view."""
        self._console.print(Text.from_ansi(text))

    def close(self) -> None:
        """Leave the last picture standing."""
        self._live.stop()


class Album:
    """Passes everything on, and keeps the picture in which most happens."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._best: tuple[tuple[float, ...], Picture] | None = None

    def picture(self, picture: Picture) -> None:
        """Show it, and keep it if it is better."""
        self._show.picture(picture)
        rank = (
            sum(row.last_at is not None for row in picture.schedules),
            sum(row.ready for row in picture.pools),
            sum(row.per_second for row in picture.pools),
        )
        if self._best is None or rank >= self._best[0]:
            self._best = rank, picture

    def event(self, text: str, at: datetime) -> None:
        """Pass it on."""
        self._show.event(text, at)

    def line(self, text: str) -> None:
        """Pass it on."""
        self._show.line(text)

    def save(self, file: Path) -> None:
        """Write the best picture as SVG."""
        if self._best is None:
            return
        console = Console(record=True, width=PICTURE_WIDTH, file=io.StringIO(), force_terminal=True)
        console.print(draw(replace(self._best[1], logs=""), PICTURE_WIDTH))
        console.save_svg(str(file), title="muster dev")
