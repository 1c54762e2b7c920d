"""What a server answered: each feature's values, statuses and event times, in the order of the entities."""

import math
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from millrace.client.errors import InvalidAnswer

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""How protobuf's JSON form, and so Feast, spells what JSON has no number for."""

_SPELLED = {number: text for text, number in _NOT_FINITE.items()}
"""The same the other way round: `math.nan` is found in it as the object that it is."""

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""What Feast sends as the event time of a value that it does not have."""


class Status(StrEnum):
    """What is known of a value, by the names of `feast.serving.FieldStatus`."""

    INVALID = "INVALID"
    PRESENT = "PRESENT"
    NULL_VALUE = "NULL_VALUE"
    NOT_FOUND = "NOT_FOUND"
    OUTSIDE_MAX_AGE = "OUTSIDE_MAX_AGE"


@dataclass(frozen=True, slots=True)
class OnlineFeatures:
    """A column a feature and a row an entity, in the order asked; documents: a row each, nearest first.

    `values` are as in JSON: numbers, text, lists; bytes are base64, timestamps are whole seconds since 1970.
    `event_timestamps` (UTC) are None where there is no value.
    """

    values: Mapping[str, list[Any]]
    statuses: Mapping[str, list[Status]]
    event_timestamps: Mapping[str, list[datetime | None]]

    def to_dict(self) -> dict[str, list[Any]]:
        """The values by feature, as the stock SDK's `to_dict` has them."""
        return dict(self.values)

    def to_arrow(self, schema: "pa.Schema | None" = None) -> "pa.Table":
        """The values as a table; of the given types, or of those that the values have.

        Where the schema has a timestamp, a number is taken for seconds since 1970; where it has binary, text is taken
        for base64. Both hold in lists too. Raises `ValueError` naming a column that is no base64, and what pyarrow
        raises for values that do not fit.
        """
        import pyarrow as pa

        if schema is None:
            return pa.table(dict(self.values))
        arrays = [_array(field.name, self.values[field.name], field.type) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)

    def to_pandas(self) -> "pd.DataFrame":
        """The values as a frame; a number that is missing is NaN."""
        import pandas as pd

        return pd.DataFrame(dict(self.values))

    def to_numpy(self, features: Sequence[str] | None = None) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
        """Numbers and booleans as a matrix of float64, a row an entity; what is missing is NaN.

        `features` chooses columns, all by default. Raises `ValueError` naming a column that has no numbers.
        """
        import numpy as np

        names = list(self.values) if features is None else list(features)
        rows = len(self.values[names[0]]) if names else 0
        matrix = np.empty((rows, len(names)))
        for i, name in enumerate(names):
            try:
                matrix[:, i] = [math.nan if value is None else value for value in self.values[name]]
            except (TypeError, ValueError):
                raise ValueError(f"feature {name!r} has values that are no numbers: name the columns to take") from None
        return matrix


def read_answer(document: Any) -> OnlineFeatures:
    """Reads the body of a response. Raises `InvalidAnswer`."""
    try:
        names = document["metadata"]["feature_names"]
        names = names["val"] if isinstance(names, dict) else names
        results = document["results"]
        if len(names) != len(results):
            raise InvalidAnswer(f"the server names {len(names)} features and answers {len(results)}")
        columns = dict(zip(names, results, strict=True))
        return OnlineFeatures(
            {name: _numbers(column["values"]) for name, column in columns.items()},
            {name: [Status(status) for status in column["statuses"]] for name, column in columns.items()},
            {name: _times(column) for name, column in columns.items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidAnswer(f"the response is not of Feast's form: {type(error).__name__} {error}") from error


def nearest_first(found: OnlineFeatures) -> OnlineFeatures:
    """Documents by their `distance`: servers answer Feast's `api_version` 2 in the order of keys, for Feast's SDK."""
    distances = found.values.get("distance")
    if not distances or None in distances:
        return found
    order = sorted(range(len(distances)), key=distances.__getitem__)
    return OnlineFeatures(
        {name: [column[i] for i in order] for name, column in found.values.items()},
        {name: [column[i] for i in order] for name, column in found.statuses.items()},
        {name: [column[i] for i in order] for name, column in found.event_timestamps.items()},
    )


def _numbers(values: list[Any]) -> list[Any]:
    """The column with what is not finite as numbers, if nothing in it says that it is one of texts."""
    leaves = list(_leaves(values))
    if not any(type(leaf) is str for leaf in leaves):
        return values
    numbers = all(isinstance(leaf, int | float) or (type(leaf) is str and leaf in _NOT_FINITE) for leaf in leaves)
    found: list[Any] = _each(values, _NOT_FINITE) if numbers else values
    return found


def _leaves(value: Any) -> Iterator[Any]:
    """What stands in a column and its lists, without what is missing."""
    for one in value:
        if type(one) is list:
            yield from _leaves(one)
        elif one is not None:
            yield one


def _each(value: Any, made: Mapping[Any, Any]) -> Any:
    """The value, or each of those in its lists, as what it is made."""
    if type(value) is list:
        return [_each(one, made) for one in value]
    return made.get(value, value) if type(value) in (str, float) else value


def _array(name: str, values: list[Any], kind: "pa.DataType") -> "pa.Array":
    """A column in a type of Arrow's."""
    import pyarrow as pa
    import pyarrow.types as types

    if not types.is_floating(_innermost(kind)):
        values = _each(values, _SPELLED)
    try:
        values = _decoded(values, kind)
    except (TypeError, ValueError):
        raise ValueError(f"feature {name!r} is no base64, as bytes come: ask for it as text") from None
    found = pa.array(values)
    return found.cast(_as_it_came(found.type, kind)).cast(kind)


def _decoded(values: list[Any], kind: "pa.DataType") -> list[Any]:
    """The values with base64 made bytes, if that is the type asked for."""
    import pyarrow.types as types

    if types.is_list(kind) or types.is_large_list(kind):
        if _is_binary(kind.value_type):
            return [None if value is None else _decoded(value, kind.value_type) for value in values]
        return values
    return (
        [None if value is None else b64decode(value, validate=True) for value in values] if _is_binary(kind) else values
    )


def _innermost(kind: "pa.DataType") -> "pa.DataType":
    """The type of what stands in a column and its lists."""
    import pyarrow.types as types

    return _innermost(kind.value_type) if types.is_list(kind) or types.is_large_list(kind) else kind


def _is_binary(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _as_it_came(found: "pa.DataType", asked: "pa.DataType") -> "pa.DataType":
    """The type that the values are read in first: timestamps come as seconds, in whatever unit they are asked for."""
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_list(found) and (types.is_list(asked) or types.is_large_list(asked)):
        return pa.list_(_as_it_came(found.value_type, asked.value_type))
    return pa.timestamp("s", asked.tz) if types.is_integer(found) and types.is_timestamp(asked) else asked


def _times(column: Mapping[str, Any]) -> list[datetime | None]:
    times = column.get("event_timestamps") or [None] * len(column["values"])
    return [_time(text) for text in times]


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    moment = datetime.fromisoformat(text).astimezone(UTC)
    return None if moment == _NEVER else moment
