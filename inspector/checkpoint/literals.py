"""Plain values of bytes entries as text and JSON."""

from __future__ import annotations

import math
from typing import Any, Literal

from inspector.checkpoint.text import printable

__all__ = ["Number", "format_literal", "json_literal", "json_number"]

#: A number, or the contract's word for one that JSON has not.
Number = float | int | Literal["nan", "inf", "-inf"]


def json_number(number: float | int) -> Number:
    """A number as JSON takes it: NaN and infinities as the contract has them."""
    if isinstance(number, int) or math.isfinite(number):
        return number
    return "nan" if number != number else "inf" if number > 0 else "-inf"


def json_literal(value: Any) -> Any:
    """A plain value as JSON takes it: keys as text, NaN and infinities as the contract has them."""
    if type(value) is float:
        return json_number(value)
    if type(value) in (list, tuple):
        return [json_literal(item) for item in value]
    if type(value) is dict:
        return {
            k if type(k) is str else str(json_literal(k)): json_literal(v) for k, v in value.items()
        }
    return value


def format_literal(value: Any, max_chars: int = 200) -> str:
    """A plain value as Python writes it, printable and cut."""
    return printable(repr(value), max_chars)
