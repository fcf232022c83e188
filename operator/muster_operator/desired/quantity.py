"""Kubernetes quantities (`500m`, `300Mi`) as exact numbers.

The builders turn sizes into bytes with it, the comparison of children uses it to see that `0.5` and `500m`
are one amount, and `decide.load` reads a CPU limit. Grammar: Kubernetes' `resource.Quantity`.
"""

import re
from decimal import Decimal

_SHAPE = re.compile(
    r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([eE][+-]?[0-9]{1,3})|(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]))?"
)

_FACTORS = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal("1e3"),
    "M": Decimal("1e6"),
    "G": Decimal("1e9"),
    "T": Decimal("1e12"),
    "P": Decimal("1e15"),
    "E": Decimal("1e18"),
} | {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)}


def parse_quantity(value: object) -> Decimal | None:
    """Return the number that a quantity (text or number) stands for, or None when it is none."""
    if isinstance(value, bool):
        return None
    match = _SHAPE.fullmatch(str(value))
    if match is None:
        return None
    number, exponent, suffix = match.groups()
    return Decimal(number + (exponent or "")) * _FACTORS.get(suffix, Decimal(1))
