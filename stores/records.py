"""What an entity's hash in Redis says of a view, decoded by column."""

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain

import pyarrow as pa

from stores.errors import StoreRefused
from stores.values import decode, decode_timestamps
from stores.versions import VERSION, unpack
from stores.view import View

Stored = Sequence[bytes | None]
"""What one field holds in each of some hashes; None where it is absent."""


def feature_tables(views: Sequence[View], hashes: Sequence[Stored]) -> list[pa.Table]:
    """For each view a table of its features, `event_timestamp` and `_present`, one row a hash.

    A hash is given as the values of, for each view in turn, its timestamp and its features.
    """
    fields: list[Stored] = list(zip(*hashes, strict=True)) or [()] * sum(1 + len(view.features) for view in views)
    timestamps: list[Stored] = []
    features: list[list[Stored]] = []
    start = 0
    for view in views:
        end = start + 1 + len(view.features)
        timestamps.append(fields[start])
        features.append(fields[start + 1 : end])
        start = end
    columns = _decode_features(views, features)
    moments = decode_timestamps(list(chain.from_iterable(timestamps)))
    present = moments.is_valid()
    tables = []
    for number, (view, arrays) in enumerate(zip(views, columns, strict=True)):
        start = number * len(hashes)
        names = [*(feature.name for feature in view.features), "event_timestamp", "_present"]
        known = [moments.slice(start, len(hashes)), present.slice(start, len(hashes))]
        tables.append(pa.Table.from_arrays([*arrays, *known], names))
    return tables


def with_versions(table: pa.Table, stored: Stored) -> pa.Table:
    """The table and the columns `VERSION`; null where there is no version."""
    unpacked = [None if version is None else unpack(version) for version in stored]
    columns = [
        [known and known[0].order for known in unpacked],
        [known and known[0].lsn for known in unpacked],
        [known and known[0].row for known in unpacked],
        [known and known[1] for known in unpacked],
    ]
    for field, values in zip(VERSION, columns, strict=True):
        table = table.append_column(field, pa.array(values, field.type))
    return table


def _decode_features(views: Sequence[View], features: Sequence[Sequence[Stored]]) -> list[list[pa.Array]]:
    """The features of each view, those of one type decoded together: a call costs more than a value."""
    alike: dict[int, list[tuple[int, int]]] = {}
    for number, view in enumerate(views):
        for place, feature in enumerate(view.features):
            alike.setdefault(feature.value_type, []).append((number, place))
    columns: list[list[pa.Array]] = [[None] * len(view.features) for view in views]
    for value_type, places in alike.items():
        stored = [features[number][place] for number, place in places]
        try:
            decoded = decode(list(chain.from_iterable(stored)), value_type)
        except ValueError as error:
            raise _blame(views, features, places, error) from None
        for (number, place), start in zip(places, _starts(stored), strict=True):
            column = decoded.slice(start, len(features[number][place]))
            arrow_type = views[number].features[place].arrow_type
            columns[number][place] = column if column.type == arrow_type else column.cast(arrow_type)
    return columns


def _starts(columns: Iterable[Stored]) -> list[int]:
    """Where each column begins once they stand one after the other."""
    return [0, *accumulate(len(column) for column in columns)][:-1]


def _blame(
    views: Sequence[View], features: Sequence[Sequence[Stored]], places: list[tuple[int, int]], error: ValueError
) -> StoreRefused:
    """The error that names the feature whose stored values do not decode."""
    for number, place in places:
        feature = views[number].features[place]
        try:
            decode(features[number][place], feature.value_type)
        except ValueError as reason:
            return StoreRefused(
                f"feature '{views[number].name}:{feature.name}' in Redis: {reason}; if its type has changed, "
                "backfill the view"
            )
    return StoreRefused(str(error))
