"""What of a table's columns is another than when it was applied, and no change tells: a column that is not captured
yet, and a type by which PostgreSQL has rewritten the rows, of which its log says nothing."""

import re
from dataclasses import dataclass

from connectors.table import Table

_INTEGERS = ("smallint", "integer", "bigint")
_FLOATS = ("real", "double precision")
_TEXT = re.compile(r"(?:text|character varying(?:\((\d+)\))?)")
_NUMERIC = re.compile(r"numeric(?:\((\d+),(-?\d+)\))?")


@dataclass(frozen=True, slots=True)
class Altered:
    """`added` columns are not captured; of the `retyped` ones values may have been altered: by name PostgreSQL's names
    of the type that was applied and of the one it is now."""

    added: tuple[str, ...]
    retyped: dict[str, tuple[str, str]]


def altered(applied: Table, now: Table) -> Altered:
    """How the table differs from the one that was applied. Columns that cannot be carried are none that are missed, and
    a type that holds every value of the one before alters none."""
    before = {column.name: column.sql_type for column in applied.columns}
    added = tuple(c.name for c in now.columns if c.name not in before and c.encoding != "none")
    kept = ((c.name, before[c.name], c.sql_type) for c in now.columns if c.name in before and c.encoding != "none")
    return Altered(added, {name: (old, new) for name, old, new in kept if not _holds_all(new, old)})


def _holds_all(new: str, old: str) -> bool:
    """Whether each value of the type `old` is the same in the type `new`."""
    for wider_and_wider in (_INTEGERS, _FLOATS):
        if old in wider_and_wider and new in wider_and_wider:
            return wider_and_wider.index(new) >= wider_and_wider.index(old)
    if (longest := _TEXT.fullmatch(new)) and (length := _TEXT.fullmatch(old)):
        return longest[1] is None or (length[1] is not None and int(longest[1]) >= int(length[1]))
    if (most := _NUMERIC.fullmatch(new)) and (digits := _NUMERIC.fullmatch(old)):
        if most[1] is None or digits[1] is None:
            return most[1] is None
        whole, whole_before = int(most[1]) - int(most[2]), int(digits[1]) - int(digits[2])
        return whole >= whole_before and int(most[2]) >= int(digits[2])
    return new == old
