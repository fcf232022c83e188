"""Values as one line of text, for logs and for the `argsrepr` of messages: short, whatever the value is."""

import reprlib
from typing import Any, Final

LIMIT: Final = 1024
"""Characters, as in Celery."""

_bounded = reprlib.Repr()
_bounded.maxlevel = 4
_bounded.maxtuple = _bounded.maxlist = _bounded.maxdict = _bounded.maxset = _bounded.maxfrozenset = 32
_bounded.maxstring = _bounded.maxother = 256
_bounded.maxlong = 64


def brief(value: Any, size: int) -> str:
    """Return repr(value), at most LIMIT characters. Never raises.

    `size` says how long its JSON is, so that a huge value is not written out to be thrown away.
    """
    try:
        text = repr(value) if size <= 2 * LIMIT else _bounded.repr(value)
    except Exception:  # noqa: BLE001 - the value is the user's
        return f"<{type(value).__qualname__}, whose repr() raises>"
    return text if len(text) <= LIMIT else f"{text[: LIMIT - 3]}..."
