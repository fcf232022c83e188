"""`muster dev`: from options to a session.

The command line imports this for its help, so that everything that is large, or that only an extra installs,
is imported when the command runs.
"""

import asyncio
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from muster.errors import ConfigurationError


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="FILE_OR_DIR…", type=click.Path(path_type=Path))
@click.option("--run", metavar="COMMAND", help="Run a command beside it; drain and leave when it has ended.")
@click.option("--for", "limit", metavar="DURATION", help="Drain and leave after so long, such as 10m.")
@click.option("--until-idle", is_flag=True, help="Drain and leave when no task is left.")
@click.option(
    "--data",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the embedded broker and the logs there; by default they go at the end.",
)
@click.option("--plain", is_flag=True, help="Plain lines, as without a terminal.")
@click.option(
    "--save-picture",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="At the end, write the view of its busiest moment as SVG.",
)
def dev(
    paths: tuple[Path, ...],
    run: str | None,
    limit: str | None,
    until_idle: bool,
    data: Path | None,
    plain: bool,
    save_picture: Path | None,
) -> int:
    """Run TaskQueues, WorkerPools and Schedules on this computer, without a cluster.

    Workers are processes that come and go with the load, as pods do. A broker or result store whose Secret
    is not among the manifests is an embedded one, in a file. Ctrl-C lets running tasks finish; a second one
    ends at once.
    """
    try:
        from rich.console import Console

        from .manifests import read
        from .processes import Keeper
        from .session import Session, Wishes
        from .terminal import Album, OnTerminal, Plain
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"muster dev needs {error.name}, which is not installed: pip install 'muster-tasks[local]'"
        ) from None
    wishes = Wishes(
        title=" ".join(str(path) for path in paths),
        run=_words(run),
        limit=_duration(limit),
        until_idle=until_idle,
    )
    declared = read(paths, _now())
    console = Console()
    with _home(data) as home, Keeper(None if data else home.folder) as keeper:
        tempfile.tempdir = str(home.folder)  # what adapters of the operator write goes with it
        terminal = OnTerminal(console) if console.is_terminal and not plain else None
        album = Album(terminal or Plain())
        for note in declared.notes:
            album.event(note, _now())
        session = Session(declared, wishes, home=home.folder, keeper=keeper, show=album, clock=_now)
        try:
            code = asyncio.run(session.run())
        finally:
            if terminal is not None:
                terminal.close()
            if session.failed:
                home.keep = True
                keeper.spare()
        if save_picture is not None:
            album.save(save_picture)
    if session.left_behind and data is None:
        left = f"{session.left_behind:,} tasks have not run and are gone with the temporary broker"
        click.echo(f"{left}; --data DIR keeps them for the next time", err=True)
    if home.keep and data is None:
        click.echo(f"logs are kept in {home.folder / 'logs'}", err=True)
    return code


class _Home:
    def __init__(self, folder: Path, *, keep: bool) -> None:
        self.folder = folder
        self.keep = keep


@contextmanager
def _home(data: Path | None) -> Iterator[_Home]:
    """Give the folder of the embedded broker and the logs; removed at the end unless it is to be kept."""
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
        yield _Home(data.resolve(), keep=True)
        return
    home = _Home(Path(tempfile.mkdtemp(prefix="muster-dev-")), keep=False)
    try:
        yield home
    finally:
        if not home.keep:
            shutil.rmtree(home.folder, ignore_errors=True)


def _words(run: str | None) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(run or ""))
    except ValueError as error:
        raise click.UsageError(f"--run: {error}: {run}") from None
    if run is not None and not words:
        raise click.UsageError("--run: names no command")
    return words


def _duration(text: str | None) -> timedelta | None:
    if text is None:
        return None
    from muster_operator.api.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"--for: {error}") from None


def _now() -> datetime:
    return datetime.now(UTC)
