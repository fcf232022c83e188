"""docs/reference/command-line.md, made of the commands themselves. Called by `python -m muster.reference`."""

from collections.abc import Collection, Mapping, Sequence

import click

from muster.cli import beat, worker
from muster.cli.common import Foreign
from muster.cli.main import CELERY_ONLY, COMMANDS, EXIT_CODES, muster

_FOREIGN: Mapping[str, tuple[Foreign, Foreign]] = {
    "beat": (beat.WITHOUT_EFFECT, beat.REFUSED),
    "worker": (worker.WITHOUT_EFFECT, worker.REFUSED),
}

BAR = "\\|"

_INTRODUCTION = """\
`muster -A MODULE COMMAND …` is Celery's command line; the older order, `muster COMMAND -A MODULE …`, works.
Durations are seconds or written like `90s`, `5m`, `1h30m`. The environment of a worker is described in
[environment.md](environment.md), and where the same thing is said twice the command line wins.

What is wrong is said in one line on standard error that begins with `muster:` and says what to do."""


def page(command: str) -> str:
    """Return the page, which says that `command` writes it."""
    parts = [
        f"<!-- Made of worker_image/muster/cli by `{command}`. Change the commands, not this file. -->",
        "# Command line",
        _INTRODUCTION,
        "## Exit codes",
        _table(("Code", "Meaning"), [(str(code), meaning) for code, meaning in EXIT_CODES.items()]),
        "## Options of all commands",
        _options(muster),
    ]
    top = click.Context(muster, info_name="muster")
    for name in sorted(COMMANDS):
        found = muster.get_command(top, name)
        assert found is not None
        usage = found.get_usage(click.Context(found, info_name=name, parent=top)).removeprefix("Usage: ")
        shared = {option.name for option in muster.params}
        parts += [f"## `{name}`", found.help or "", f"```\n{usage}\n```", _options(found, without=shared)]
        if name in _FOREIGN:
            without_effect, refused = _FOREIGN[name]
            parts += [
                "Celery's options that have no effect, and why none is needed:",
                _table(("Option", "Why"), _foreign(without_effect)),
                "Celery's options that are refused, and what to do instead:",
                _table(("Option", "Instead"), _foreign(refused)),
            ]
    parts += [
        "## Celery's other commands",
        _table(("Command", "Instead"), [(f"`{name}`", text) for name, text in sorted(CELERY_ONLY.items())]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _foreign(table: Foreign) -> list[tuple[str, str]]:
    return [(_names(names), text) for names, text in table.items()]


def _options(command: click.Command, without: Collection[str | None] = ()) -> str:
    rows = []
    for option in command.params:
        if not isinstance(option, click.Option) or option.hidden or option.name in without:
            continue
        value = "" if option.is_flag else f" `{option.metavar or option.type.name.upper()}`"
        rows.append((_names(option.opts) + value, option.help or ""))
    return _table(("Option", "Meaning"), rows) if rows else ""


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: tuple[str, str], rows: Sequence[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', BAR) for cell in line)} |" for line in lines)
