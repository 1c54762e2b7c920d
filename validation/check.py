"""What a compiled rule is, and what the compilers share."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from validation.errors import RuleError
from validation.rule import Rule

Check = Callable[..., pa.BooleanArray | None]
"""Takes one array for each of the rule's columns, in order, and says which rows fail: True fails, False
and null do not; None says that no row fails."""


def never_fails(*_columns: pa.Array) -> None:
    """The check of a rule that the types alone fulfil."""


def is_missing(column: pa.Array) -> pa.BooleanArray:
    """Where pandas sees a missing value: a null, or a NaN."""
    return pc.is_null(column, nan_is_null=True)


def flag(rule: Rule, key: str) -> bool:
    """A kwarg that is true, false or left out. Raises `RuleError`."""
    value = rule.kwargs.get(key, False)
    if isinstance(value, bool):
        return value
    raise RuleError(f"{key} is {value!r}", "write true or false")
