"""Durations, sizes and bounds as people write them in commands, environments and manifests.

Durations have the form of the resources (`90s`, `1h30m`, `7d`) or are plain seconds; sizes are Kubernetes
quantities (`300Mi`, `1G`) or plain bytes.
"""

import math
import re

_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?")
_BYTES = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_SIZE = re.compile(r"(\d+)([kMGT]|[KMGT]i)?")


def seconds(text: str) -> float:
    """Return the seconds in `90`, `1.5`, `90s`, `1h30m` or `7d`. Raises ValueError."""
    try:
        number = float(text)
    except ValueError:
        match = _DURATION.fullmatch(text)
        if not match or not text:
            raise ValueError(f"must be seconds or a duration such as 90s, 5m, 1h30m, not {text!r}") from None
        parts = zip(match.groups(), _SECONDS.values(), strict=True)
        return math.fsum(int(count) * unit for count, unit in parts if count)
    if not 0 <= number < math.inf:
        raise ValueError(f"must be seconds, 0 or more, not {text!r}")
    return number


def size_bytes(text: str) -> int:
    """Return the bytes in `314572800`, `300Mi` or `1G`. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"must be bytes or a quantity such as 300Mi, not {text!r}")
    return int(match[1]) * _BYTES[match[2] or ""]


def count(text: str, *, least: int = 1) -> int:
    """Return a whole number not below `least`. Raises ValueError."""
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"must be a whole number, {least} or more, not {text!r}")
    return int(text)


def address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT` or `:PORT` (all addresses). Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"must be HOST:PORT or :PORT, not {text!r}")
    return host.strip("[]"), int(port)
