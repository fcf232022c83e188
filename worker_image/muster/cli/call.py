"""`muster call`: sends a task by its name, from a shell."""

import json
from datetime import datetime
from typing import Any

import click

from muster.cli.application import application
from muster.cli.common import Form, shared, shared_options
from muster.settings import quantities


def _array(text: str) -> list[Any]:
    value = _json(text, "array")
    if isinstance(value, list):
        return value
    raise ValueError(f"must be a JSON array, not {text!r}")


def _object(text: str) -> dict[str, Any]:
    value = _json(text, "object")
    if isinstance(value, dict):
        return value
    raise ValueError(f"must be a JSON object, not {text!r}")


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"must be a JSON {name}, and is no JSON: {error}") from None


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"must be a time in ISO 8601, such as 2026-11-21T10:00:00Z, not {text!r}") from None


def _expiry(text: str) -> datetime | float:
    try:
        return quantities.seconds(text)
    except ValueError:
        return _moment(text)


@click.command()
@shared_options
@click.argument("name")
@click.option(
    "-a", "--args", "arguments", type=Form("JSON array", _array), default="[]", help="Positional arguments."
)
@click.option(
    "-k", "--kwargs", "keywords", type=Form("JSON object", _object), default="{}", help="Keyword arguments."
)
@click.option("--eta", type=Form("time", _moment), help="Not before this time, in ISO 8601.")
@click.option(
    "--countdown", type=Form("duration", quantities.seconds), help="Not before so many seconds from now."
)
@click.option(
    "--expires", type=Form("time or duration", _expiry), help="Not after this time, or so many seconds."
)
@click.option(
    "--priority",
    type=click.IntRange(0, 9),
    metavar="0-9",
    help="0 is served first; on RabbitMQ the highest, where the queue has priorities.",
)
@click.option("--serializer", type=click.Choice(["json"]), hidden=True)
@click.option("--queue", help="The queue; by the task's route.")
@click.option("--routing-key", help="As --queue: messages are routed by queue name.")
@click.option("--exchange", hidden=True)
@click.pass_context
def call(
    context: click.Context, /, name: str, arguments: list[Any], keywords: dict[str, Any], **values: Any
) -> None:
    """Send the task NAME and print its id."""
    app = application(shared(context, values))
    del values["serializer"], values["exchange"]
    route = values.pop("routing_key")
    values["queue"] = values["queue"] or route
    options = {option: value for option, value in values.items() if value is not None}
    click.echo(app.send_task(name, args=arguments, kwargs=keywords, **options).id)
