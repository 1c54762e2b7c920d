"""What an apply found to be read or made anew, kept in the lake until one has come to its end: of one that was cut off
before it told of it, nothing else is left to find it by."""

from collections.abc import Iterable

from stores.lake import Lake, property_of
from streams.decide import LakeTableName

OWED_PROPERTY = "millrace.owed"
"""Property of `changes/<topic>`, whose table is to be read anew, and of `features/<view>`, which is to be filled from
the lake: "true" from before anything goes by the declarations that call for it, until that was told."""


def owe(lake: Lake, name: LakeTableName) -> None:
    """Note it of a table of the lake. Raises `StoreUnavailable`."""
    lake.describe(name, {OWED_PROPERTY: "true"})


def owed(lake: Lake, name: LakeTableName) -> bool:
    """Whether it is noted of a table of the lake. Raises `StoreUnavailable`."""
    return property_of(lake, name, OWED_PROPERTY) == "true"


def told(lake: Lake, tables: Iterable[LakeTableName]) -> None:
    """Note that people know of it, where it was noted. Raises `StoreUnavailable`."""
    for name in tables:
        if owed(lake, name):
            lake.describe(name, {OWED_PROPERTY: "false"})
