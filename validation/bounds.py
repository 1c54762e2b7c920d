"""The bounds of a contract, read and compared as Great Expectations does."""

import math
import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any

from validation.errors import RuleError

Bound = float | date | datetime

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_DATETIME = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{6}|\.\d{3})?)?(Z|[+-]\d{2}:\d{2})?")


def parse_bound(key: str, value: Any) -> Bound | None:
    """A bound as Great Expectations reads it from JSON: a 64-bit float, a date, a date with time, or none.

    Its own field is `Union[float, dict, date, datetime]`, tried in this order. Raises `RuleError` for
    anything else, for NaN, and for a whole number that a float cannot hold.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return _parse_text(key, value)
    if isinstance(value, dict):
        raise RuleError(
            f"{key} is a suite parameter, and a stream has nothing to fill it with",
            "write the value itself",
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RuleError(f"{key} is {value!r}", "write a number, a date or a date with time")
    return _as_float(key, value)


def as_moment(bound: Any) -> Any:
    """A bound of JSON that is a date as the time that it begins at; any other as it is."""
    return f"{bound}T00:00:00" if isinstance(bound, str) and _DATE.fullmatch(bound) else bound


def _parse_text(key: str, text: str) -> Bound:
    try:
        if _DATE.fullmatch(text):
            return date.fromisoformat(text)
        if _DATETIME.fullmatch(text):
            return datetime.fromisoformat(text)
    except ValueError as error:
        raise RuleError(f"{key} is {text!r}, which is no date: {error}", "write a date that exists") from None
    try:
        return _as_float(key, float(text))
    except ValueError:
        raise RuleError(
            f"{key} is {text!r}", 'write a number, a date "2013-02-12" or a time "2013-02-12T09:30:00Z"'
        ) from None


def _as_float(key: str, value: int | float) -> float:
    try:
        nearest = float(value)
    except OverflowError:
        nearest = math.inf
    if nearest != value:
        raise RuleError(
            f"{key} is {value!r}, which Great Expectations reads as the 64-bit float {nearest!r}",
            "write a number that a 64-bit float holds exactly",
        )
    return nearest


def integer_range(
    lowest: int,
    highest: int,
    value: Callable[[int], int | float],
    min_value: float | None,
    max_value: float | None,
    strict_min: bool,
    strict_max: bool,
) -> tuple[int, int]:
    """The integers k of [lowest, highest] whose `value(k)` lies within the bounds, as an inclusive range.

    `value` must not decrease with k; the comparisons with the bounds are Python's own, which are exact.
    The range is empty (its start above its end) if no k fits.
    """
    start, stop = lowest, highest + 1
    if min_value is not None:
        low = min_value
        start = _first(lowest, highest, (lambda k: value(k) > low) if strict_min else lambda k: value(k) >= low)
    if max_value is not None:
        high = max_value
        stop = _first(lowest, highest, (lambda k: value(k) >= high) if strict_max else lambda k: value(k) > high)
    return start, stop - 1


def _first(lowest: int, highest: int, holds: Callable[[int], bool]) -> int:
    """The smallest k of [lowest, highest] for which `holds`, once true true for all above; else highest + 1."""
    low, high = lowest, highest + 1
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
