"""Lua fragments that more than one script on Redis contains, so that a rule is written once."""

from functools import cache
from importlib.resources import files


@cache
def fragment(name: str) -> str:
    """Return the text of `<name>.lua` beside this module."""
    return files(__package__).joinpath(f"{name}.lua").read_text()
