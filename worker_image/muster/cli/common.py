"""What several commands share: the options about the application and its broker, and forms of values.

Celery's order is `muster -A app worker`; the older `muster worker -A app` is accepted too, so that each
command has the shared options again, and what stands nearer to the end wins.
"""

import logging
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias, TypeVar

import click

logger = logging.getLogger(__name__)

Foreign: TypeAlias = Mapping[tuple[str, ...], str]
"""Options of Celery's, each with its names, and what is to be said of it."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Shared:
    """The options that every command knows."""

    app: str | None = None
    broker: str | None = None
    result_backend: str | None = None
    workdir: str | None = None
    quiet: bool = False


def shared_options(function: _Function) -> _Function:
    """Give a command the shared options, as keyword arguments named as the fields of `Shared`."""
    for option in (
        click.option(
            "--workdir",
            type=click.Path(exists=True, file_okay=False),
            metavar="PATH",
            help="Work in this directory.",
        ),
        click.option("--result-backend", metavar="URL", help="Where results are kept."),
        click.option(
            "-b",
            "--broker",
            metavar="URL",
            help="The broker: amqp://, amqps://, redis://, rediss:// or sqlite:///.",
        ),
        click.option("-A", "--app", metavar="MODULE", help="The application: module or module:attribute."),
    ):
        function = option(function)
    return function


def shared(context: click.Context, values: dict[str, Any]) -> Shared:
    """Take the shared options out of a command's `values`, over those that stood before the command.

    Enters the working directory and makes it the first place that modules are looked for.
    """
    before = context.obj if isinstance(context.obj, Shared) else Shared()
    names = {one.name for one in fields(Shared)} & values.keys()
    said = {name: value for name in names if (value := values.pop(name))}
    found = replace(before, **said)
    if found.workdir:
        os.chdir(found.workdir)
    here = os.getcwd()  # noqa: PTH109 - sys.path takes texts
    if here not in sys.path:
        sys.path.insert(0, here)
    return found


class Form(click.ParamType):  # type: ignore[type-arg]  # not generic in click 8.1
    """An option's value, read by a function that raises ValueError with a sentence."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value; a sentence that names the option when there is none."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            return self.fail(f"it {error}", param, ctx)


def foreign_options(
    *, refused: Foreign, without_effect: Foreign, flags: Collection[str]
) -> Callable[[_Function], _Function]:
    """Give a command Celery's options that are refused or have no effect. `flags` take no value.

    They are in the reference, not in the help.
    """

    def refuse(_context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            raise click.UsageError(f"{parameter.opts[-1]} is not taken: {refused[tuple(parameter.opts)]}")

    def ignore(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            context.meta.setdefault("without effect", []).append(tuple(parameter.opts))

    def add(function: _Function) -> _Function:
        for table, callback in ((refused, refuse), (without_effect, ignore)):
            for names in table:
                option = click.option(
                    *names, callback=callback, is_flag=names[0] in flags, hidden=True, expose_value=False
                )
                function = option(function)
        return function

    return add


def tell_without_effect(context: click.Context, without_effect: Foreign) -> None:
    """Log which of the options that were given have no effect, and why. After logging is set up."""
    for names in context.meta.get("without effect", ()):
        logger.info("%s has no effect: %s", names[-1], without_effect[names])
