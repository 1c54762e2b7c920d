"""How large the numbers of a column are: Debezium writes integers, dates and timestamps alike, so that a column whose
type changes from one of these to another goes on with values that fit and mean something else.

A size is one of a few ranges, cut where one meaning ends and another begins. Values of a size that a column did not
have before are a reason to look at its type.
"""

from bisect import bisect
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from connectors.table import Column, Encoding
from streams.pipeline import Outcome

Size = tuple[str, int]
"""A column, and the range that some of its values lie in."""

_CUTS: Mapping[Encoding, tuple[int, ...]] = {
    # The days of a date and less; the seconds of the epoch and the microseconds of a day; its milliseconds; its
    # microseconds.
    "plain": (100_000, 100_000_000_000, 100_000_000_000_000),
    # Days of the years from 1967 to 1972, which are small numbers; to 2106; numbers that are no days.
    "date": (1_000, 50_000),
    # Microseconds of the months around 1970, which are the epoch's milliseconds, too. More is nothing else.
    "timestamp": (10_000_000_000_000,),
}


def sizes(outcome: Outcome) -> frozenset[Size]:
    """The sizes of the least and the greatest accepted value of each column of numbers that could be others."""
    rows = outcome.accepted.changes.rows
    return frozenset(
        (column.name, size)
        for column in outcome.flow.table.columns
        if (cuts := _cuts(column)) is not None
        for value in pc.min_max(rows[column.name]).values()
        if value.is_valid and ((size := bisect(cuts, abs(_number(value)))) == 0 or column.encoding != "timestamp")
    )


def _cuts(column: Column) -> tuple[int, ...] | None:
    number = column.encoding != "plain" or pt.is_integer(column.arrow_type)
    return _CUTS.get(column.encoding) if number else None


def _number(value: pa.Scalar) -> int:
    """A number as Debezium wrote it."""
    return int(value.as_py() if pt.is_integer(value.type) else value.value)
