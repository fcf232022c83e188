"""docs/reference/settings.md, made of the table. Called by `python -m muster.reference`."""

from typing import Any

from muster.settings.kinds import ANY, REDIS_OPTIONS
from muster.settings.table import TABLE, Setting, Standing

_FAMILIES = {
    "": "General",
    "task": "Tasks",
    "worker": "Workers",
    "broker": "Broker",
    "result": "Results",
    "beat": "Beat",
    "muster": "Muster's own",
    "control": "Remote control",
    "event": "Events",
    "redis": "Redis as result backend",
    "security": "Signed messages",
    "other": "Other result backends",
}
_GENERAL = {"accept_content", "result_accept_content", "enable_utc", "imports", "include", "timezone"}

_INTRODUCTION = """\
Muster reads Celery's settings under Celery's names, the upper-case names of Celery 3 too: from
`app.conf.update(…)`, `app.config_from_object(…)` or Django's settings with a namespace. This page has every
setting of Celery 5.7 and what becomes of it:

- **Honoured**: it does what Celery's documentation says, or what its line here says.
- **Accepted**: it has no effect, and its line says why none is needed. `muster settings` shows which of yours
  are so.
- **Refused**: setting it to anything but Celery's default is an error that says what to do instead.

A name that is not here is an error that names the nearest one. Seconds are a number or a `timedelta`. Where
the same thing can be said in several places, the call goes before the task's own attributes and
`task_annotations`, these before the command line and the manifest, these before the application's
configuration, and that before the default."""


def page(command: str) -> str:
    """Return the page, which says that `command` writes it."""
    counts = {standing.value.lower(): sum(row.standing is standing for row in TABLE) for standing in Standing}
    summary = ", ".join(f"{number} are {standing}" for standing, number in counts.items())
    parts = [
        f"<!-- Made of worker_image/muster/settings by `{command}`. Change the table, not this file. -->",
        "# Settings",
        _INTRODUCTION,
        f"Of {len(TABLE)} settings {summary}.",
    ]
    for family, title in _FAMILIES.items():
        parts += [f"## {title}", _table([row for row in TABLE if _family(row) == family])]
        if family == "broker":
            parts += ["### Options in `broker_transport_options`", _options()]
    return "\n\n".join(parts) + "\n"


def _family(row: Setting) -> str:
    if row.name in _GENERAL:
        return ""
    family = row.name.partition("_")[0]
    return family if family in _FAMILIES else "other"


def _table(rows: list[Setting]) -> str:
    lines = ["| Setting | Old name | Value | Default | | What becomes of it |", "|" + " --- |" * 6]
    for row in rows:
        cells = (
            f"`{row.name}`",
            "" if row.own else f"`{row.old}`",
            "" if row.kind is ANY else row.kind.name,
            _code(row.default) + (f" (Celery: `{row.celery}`)" if row.celery else ""),
            row.standing.value,
            _cell(row.note),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _options() -> str:
    lines = ["| Option | Meaning |", "| --- | --- |"]
    return "\n".join(lines + [f"| `{name}` | {_cell(note)} |" for name, note in REDIS_OPTIONS.items()])


def _code(value: Any) -> str:
    return "" if value is None else f"`{_cell(repr(value))}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
