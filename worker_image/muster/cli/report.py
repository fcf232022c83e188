"""`muster report` and `muster settings`: what is in force here and where it comes from. Nothing secret."""

import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

from muster.cli.application import application
from muster.cli.common import Shared, shared, shared_options
from muster.settings import Settings, Standing, known, resolve
from muster.settings.urls import mask

_PACKAGES = ("muster-tasks", "click", "msgspec", "prometheus-client", "redis", "hiredis", "celery", "kombu")
_SECRET = ("password", "secret", "token", "key_id", "access_key")


def shown(name: str, value: Any) -> Any:
    """Return a setting's value in a form that JSON has, with nothing secret in it."""
    if any(word in name.lower() for word in _SECRET) and value not in (None, ""):
        return "***"
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return mask(value) if "://" in value else value
        case Mapping():
            return {str(key): shown(str(key), item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [shown(name, item) for item in value]
        case _:
            return repr(value)


def _settings(said: Shared) -> Settings:
    from muster.errors import ConfigurationError

    try:
        found: Settings = application(said).conf.settings
        return found
    except ConfigurationError:
        if said.app:
            raise
        return resolve({})


@click.command("settings")
@shared_options
@click.option("--all", "everything", is_flag=True, help="The defaults too.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    metavar="FORMAT",
    help="text or json.",
)
@click.pass_context
def show_settings(context: click.Context, /, everything: bool, output: str, **values: Any) -> None:
    """Show an application's settings: value, origin, and whether each has an effect."""
    found = _settings(shared(context, values))
    rows = [
        {
            "name": name,
            "value": shown(name, value),
            "origin": found.origin(name),
            "standing": setting.standing.value,
            "note": "" if setting.standing is Standing.HONOURED else setting.note,
        }
        for name, value in found.items()
        if (everything or found.origin(name) != "default") and (setting := known(name))
    ]
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        remark = f"  # {row['standing']}: {row['note']}" if row["note"] else ""
        click.echo(f"{row['name']} = {json.dumps(row['value'])}  ({row['origin']}){remark}")


@click.command()
@shared_options
@click.pass_context
def report(context: click.Context, /, **values: Any) -> None:
    """Show versions, this machine, and the options that a worker would have here."""
    from muster.cli.worker import read_environment, worker_options

    said = shared(context, values)
    click.echo(f"python {platform.python_version()} ({sys.executable}) on {platform.platform()}")
    for package in _PACKAGES:
        try:
            click.echo(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if not (said.app or read_environment().app):
        return
    options = worker_options(said, {}).with_application(_settings(said))
    for name, text in options.effective().items():
        click.echo(f"{name} = {text}  ({options.origins.get(name, 'default')})")
