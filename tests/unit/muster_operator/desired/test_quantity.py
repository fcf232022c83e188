"""Kubernetes quantities as numbers."""

from decimal import Decimal

import pytest

from muster_operator.desired.quantity import parse_quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", "0"),
        ("500m", "0.5"),
        ("0.5", "0.5"),
        (".5", "0.5"),
        ("2", "2"),
        (2, "2"),
        ("1k", "1000"),
        ("300Mi", "314572800"),
        ("1Gi", "1073741824"),
        ("1e3", "1000"),
        ("1E", "1000000000000000000"),
        ("-1u", "-0.000001"),
        ("100n", "0.0000001"),
    ],
)
def test_a_quantity_is_a_number(text, number):
    """Decimal and binary suffixes, exponents, plain numbers: exactly."""
    assert parse_quantity(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "1KB", "Mi", None, True, "1.2.3"])
def test_anything_else_is_none(text):
    """Not an error: whoever asks knows what that means."""
    assert parse_quantity(text) is None
