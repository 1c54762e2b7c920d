"""What is known of a value. Feast's own reading does not ask a view's `ttl`, and says PRESENT of an entity that it has
never seen; here the statuses are those that Feast's protocol defines."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any


class Status(IntEnum):
    """What is known of one value, by the numbers of `feast.serving.FieldStatus`."""

    PRESENT = 1
    NULL_VALUE = 2
    """The entity has the view's features, and this one is null."""
    NOT_FOUND = 3
    """The view has nothing of the entity: it was never written, or is deleted."""
    OUTSIDE_MAX_AGE = 4
    """What the view has is older than its `ttl`; the value is withheld."""


NAMES = {int(status): status.name for status in Status}


def of_values(values: Sequence[Any]) -> list[str]:
    """The names of the statuses of values of which no more is known: what is null is a null."""
    return ["NULL_VALUE" if value is None else "PRESENT" for value in values]
