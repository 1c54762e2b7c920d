"""What a server answered: each feature's values, statuses and event times, in the order of the entities."""

import math
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import accumulate
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
        for base64. Both hold in lists, structs and maps too. Raises `ValueError` naming a column that is no base64, and
        what pyarrow raises for values that do not fit.
        """
        import pyarrow as pa

        if schema is None:
            return pa.table(dict(self.values))
        arrays = [_array(field.name, self.values[field.name], field.type) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)

    def to_pandas(self) -> "pd.DataFrame":
        """The values as a frame; a number that is missing is NaN.

        A column whose every value is missing, or with booleans beside what is missing, has dtype object, and None.
        """
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
                matrix[:, i] = [_number(value) for value in self.values[name]]
            except (TypeError, ValueError):
                raise ValueError(f"feature {name!r} has values that are no numbers: name the columns to take") from None
        return matrix


def _number(value: Any) -> Any:
    if isinstance(value, str):  # which NumPy would read as a number
        raise TypeError("a text")
    return math.nan if value is None else value


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
    found: list[Any] = _finite(values) if numbers else values
    return found


def _leaves(value: Any) -> Iterator[Any]:
    """What stands in a column and its lists, without what is missing."""
    for one in value:
        if type(one) is list:
            yield from _leaves(one)
        elif one is not None:
            yield one


def _finite(value: Any) -> Any:
    """The value, or each of those in its lists, with texts that spell a number as that."""
    if type(value) is list:
        return [_finite(one) for one in value]
    return _NOT_FINITE.get(value, value) if type(value) is str else value


def _array(name: str, values: list[Any], kind: "pa.DataType") -> "pa.Array":
    """A column in a type of Arrow's."""
    import pyarrow as pa

    try:
        return _typed(values, kind)
    except _NoBase64:
        raise ValueError(f"feature {name!r} is no base64, as bytes come: ask for it as text") from None
    except (AttributeError, TypeError) as error:
        raise pa.ArrowInvalid(f"feature {name!r} has values that are no {kind}: {error}") from error


class _NoBase64(Exception):
    """A value that is to be bytes is no base64."""


def _typed(values: Sequence[Any], kind: "pa.DataType") -> "pa.Array":
    """Values of one type, and in turn what stands in them."""
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_struct(kind):
        missing = pa.array([value is None for value in values], pa.bool_())
        parts = [
            _typed([None if value is None else value.get(field.name) for value in values], field.type) for field in kind
        ]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=missing)
    if types.is_map(kind):
        pairs = [None if value is None else list(value.items()) for value in values]
        inner = [pair for value in pairs for pair in value or ()]
        keys, items = (
            _typed([_key(key, kind.key_type) for key, _ in inner], kind.key_type),
            _typed([item for _, item in inner], kind.item_type),
        )
        return pa.MapArray.from_arrays(_offsets(pairs, pa.int32()), keys, items).cast(kind)
    if types.is_fixed_size_list(kind):
        filled = [[None] * kind.list_size if value is None else _listed(value) for value in values]
        lists = pa.array([value is None for value in values], pa.bool_())
        if any(len(value) != kind.list_size for value in filled):
            raise pa.ArrowInvalid(f"a list has not the length of {kind}")
        inner = [one for value in filled for one in value]
        return pa.FixedSizeListArray.from_arrays(_typed(inner, kind.value_type), type=kind, mask=lists)
    if types.is_list(kind) or types.is_large_list(kind):
        inner = [one for value in values for one in _listed(value)]
        large = types.is_large_list(kind)
        made, offsets = (pa.LargeListArray, pa.int64()) if large else (pa.ListArray, pa.int32())
        return made.from_arrays(_offsets(values, offsets), _typed(inner, kind.value_type)).cast(kind)
    return _plain(values, kind)


def _key(key: str, kind: "pa.DataType") -> str | int:
    """A map's key, which JSON has as text, as a value of its type would come."""
    import pyarrow.types as types

    return int(key) if types.is_timestamp(kind) and re.fullmatch(r"-?\d+", key) else key


def _listed(value: Any) -> Sequence[Any]:
    if value is not None and type(value) is not list:
        raise TypeError(f"{type(value).__name__} is no list")
    return value or ()


def _offsets(values: Sequence[Any], kind: "pa.DataType") -> "pa.Array":
    """Where each list begins among all that is in them; a list that is missing begins nowhere."""
    import pyarrow as pa

    ends = list(accumulate((len(value or ()) for value in values), initial=0))
    begins = [None if value is None else end for value, end in zip(values, ends, strict=False)]
    return pa.array([*begins, ends[-1]], kind)


def _plain(values: Sequence[Any], kind: "pa.DataType") -> "pa.Array":
    """Values without others in them. Timestamps come as whole seconds, in whatever unit they are asked for, bytes as
    base64."""
    import pyarrow as pa
    import pyarrow.types as types

    if _is_binary(kind):
        try:
            decoded = [None if value is None else b64decode(value, validate=True) for value in values]
        except (TypeError, ValueError) as error:
            raise _NoBase64 from error
        return pa.array(decoded).cast(kind)
    if types.is_floating(kind):
        values = _finite(values)
    else:
        values = [_SPELLED.get(value, value) if type(value) is float else value for value in values]
    found = pa.array(values)
    if types.is_integer(found.type) and types.is_timestamp(kind):
        found = found.cast(pa.timestamp("s", kind.tz))
    return found.cast(kind)


def _is_binary(kind: "pa.DataType") -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _times(column: Mapping[str, Any]) -> list[datetime | None]:
    times = column.get("event_timestamps") or [None] * len(column["values"])
    return [_time(text) for text in times]


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    moment = datetime.fromisoformat(text).astimezone(UTC)
    return None if moment == _NEVER else moment
