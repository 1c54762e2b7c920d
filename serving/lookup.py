"""Online features by entity: every value comes with whether it is there, and how old it is.

Feast's own reading does not ask a view's `ttl` and says PRESENT of an entity it has never seen; here the
statuses are those that Feast's protocol defines (`feast.serving.FieldStatus`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from stores.rows import TIMESTAMP, FeatureReader
from stores.view import Feature, View


class InvalidLookup(ValueError):
    """A request that no view can answer: it says what to ask instead."""


class Status(IntEnum):
    """What is known of one value, by the numbers of `feast.serving.FieldStatus`."""

    PRESENT = 1
    NULL_VALUE = 2
    """The entity has the view's features, and this one is null."""
    NOT_FOUND = 3
    """The view has nothing of the entity: it was never written, or is deleted."""
    OUTSIDE_MAX_AGE = 4
    """What the view has is older than its `ttl`; the value is withheld."""


_NAMES = np.array([None, *(status.name for status in Status)], object)


@dataclass(frozen=True, slots=True)
class Lookup:
    """The answer: three tables with a column a requested feature and a row an entity, in the order asked.

    `statuses` holds the numbers of `Status` (int8); `event_timestamps` is null where the status is
    NOT_FOUND. `views` names the view of each column.
    """

    values: pa.Table
    statuses: pa.Table
    event_timestamps: pa.Table
    views: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The answer in the shape of Feast's `/get-online-features`, as Python values."""
        of_view = dict(zip(self.views, self.event_timestamps.columns, strict=True))
        times = {view: column.to_pylist() for view, column in of_view.items()}
        results = [
            {
                "values": _to_list(values),
                "statuses": _NAMES[statuses.to_numpy()].tolist(),
                "event_timestamps": times[view],
            }
            for values, statuses, view in zip(self.values.columns, self.statuses.columns, self.views, strict=True)
        ]
        return {"metadata": {"feature_names": self.values.column_names}, "results": results}


def _to_list(column: pa.ChunkedArray) -> list[Any]:
    """The column as Python values; numbers without a null by NumPy, which is faster by far."""
    if not column.null_count and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return column.to_numpy().tolist()  # type: ignore[no-any-return]  # NumPy's is Any
    return column.to_pylist()  # type: ignore[no-any-return]  # Arrow's is Any


@dataclass(frozen=True, slots=True)
class _Group:
    """Views that one call of a reader answers."""

    reader: FeatureReader
    join_keys: tuple[Feature, ...]
    views: tuple[View, ...]


@dataclass(frozen=True, slots=True)
class _Column:
    """A requested feature: which view of which group has it, and what it is called in the answer."""

    group: int
    view: int
    feature: str
    name: str


@dataclass(frozen=True, slots=True)
class _Plan:
    groups: tuple[_Group, ...]
    columns: tuple[_Column, ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    """One view's part of an answer; `statuses` are those of values that are not null, `outdated` marks the
    rows whose values are withheld, None if there are none."""

    table: pa.Table
    statuses: pa.Array
    outdated: npt.NDArray[np.bool_] | None


class OnlineLookup:
    """Looks features up in the stores that have them, each view in its own."""

    def __init__(self, sources: Iterable[tuple[View, FeatureReader]]) -> None:
        self._sources = {view.name: (view, reader) for view, reader in sources}
        self._planned = lru_cache(maxsize=1024)(self._plan)

    def lookup(
        self,
        features: Sequence[str],
        entities: pa.Table,
        full_feature_names: bool = False,
        now: datetime | None = None,
    ) -> Lookup:
        """The features of each row of `entities`, a table with the join keys of all views concerned.

        `features` are `"view:feature"`, or `"view"` for all of a view. Columns are called by the feature's
        name or, with `full_feature_names`, `view__feature`. `now` (UTC, the clock's by default) is what a
        view's `ttl` counts back from. Raises `InvalidLookup`, and `StoreUnavailable` from the stores.
        """
        plan = self._planned(tuple(features), full_feature_names)
        moment = now or datetime.now(UTC)
        answers = []
        for group in plan.groups:
            tables = group.reader.read(group.views, _join_key_columns(group.join_keys, entities))
            answers.append([_answer(view, table, moment) for view, table in zip(group.views, tables, strict=True)])
        values, statuses, times = [], [], []
        for column in plan.columns:
            answer = answers[column.group][column.view]
            value = answer.table.column(column.feature)
            statuses.append(_statuses(value, answer))
            values.append(value if answer.outdated is None else pc.if_else(answer.outdated, None, value))
            times.append(answer.table.column("event_timestamp"))
        names = [column.name for column in plan.columns]
        return Lookup(
            pa.Table.from_arrays(values, names),
            pa.Table.from_arrays(statuses, names),
            pa.Table.from_arrays(times, names),
            tuple(plan.groups[column.group].views[column.view].name for column in plan.columns),
        )

    def _plan(self, features: tuple[str, ...], full_feature_names: bool) -> _Plan:
        wanted: dict[str, list[str]] = {}
        references = [reference for feature in features for reference in self._resolve(feature)]
        for view_name, feature in references:
            wanted.setdefault(view_name, []).append(feature)
        groups: list[_Group] = []
        places: dict[str, tuple[int, int]] = {}
        for view_name, names in wanted.items():
            view, reader = self._sources[view_name]
            number = _group_of(groups, reader, view.join_keys)
            places[view_name] = (number, len(groups[number].views))
            groups[number] = replace(groups[number], views=(*groups[number].views, _narrowed(view, names)))
        columns = [
            _Column(*places[view], feature, f"{view}__{feature}" if full_feature_names else feature)
            for view, feature in references
        ]
        _check_names(columns)
        return _Plan(tuple(groups), tuple(columns))

    def _resolve(self, reference: str) -> list[tuple[str, str]]:
        """The features that a reference stands for, each with its view's name."""
        view_name, colon, feature = reference.partition(":")
        if view_name not in self._sources:
            known = ", ".join(sorted(self._sources))
            raise InvalidLookup(f"there is no feature view {view_name!r}; there are: {known}")
        names = [known.name for known in self._sources[view_name][0].features]
        if not colon:
            return [(view_name, name) for name in names]
        if feature not in names:
            raise InvalidLookup(f"view {view_name!r} has no feature {feature!r}; it has: {', '.join(names)}")
        return [(view_name, feature)]


def _group_of(groups: list[_Group], reader: FeatureReader, join_keys: tuple[Feature, ...]) -> int:
    """The number of the group with that reader and those join keys, added if it is not there."""
    for number, group in enumerate(groups):
        if group.reader is reader and set(group.join_keys) == set(join_keys):
            return number
    groups.append(_Group(reader, join_keys, ()))
    return len(groups) - 1


def _narrowed(view: View, names: Sequence[str]) -> View:
    """The view with those features only; a view with a vector is its store's to read whole."""
    if view.vector is not None:
        return view
    return replace(view, features=tuple(feature for feature in view.features if feature.name in names))


def _check_names(columns: Sequence[_Column]) -> None:
    names = [column.name for column in columns]
    for name in names:
        if names.count(name) > 1:
            raise InvalidLookup(
                f"two features are called {name!r}; ask for each once, and with full_feature_names if they "
                "are of different views"
            )


def _join_key_columns(join_keys: Sequence[Feature], entities: pa.Table) -> pa.Table:
    """The join keys in their declared types."""
    columns = {}
    for key in join_keys:
        if key.name not in entities.column_names:
            raise InvalidLookup(f"the entities have no column {key.name!r}; they need one for each join key")
        column = entities.column(key.name)
        try:
            columns[key.name] = column.cast(key.arrow_type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidLookup(f"join key {key.name!r} must be {key.arrow_type}: {error}") from None
        if column.null_count:
            raise InvalidLookup(f"join key {key.name!r} is null in {column.null_count} of {len(column)} entities")
    return pa.table(columns) if columns else entities.select([])


def _answer(view: View, table: pa.Table, now: datetime) -> _Answer:
    present = table.column("_present").to_numpy()
    timestamps = table.column("event_timestamp")
    statuses = np.where(present, np.int8(Status.PRESENT), np.int8(Status.NOT_FOUND))
    if not view.ttl:
        return _Answer(table, pa.array(statuses), None)
    oldest = pa.scalar(now - view.ttl, TIMESTAMP)
    outdated = pc.less(timestamps, oldest).fill_null(False).to_numpy() & present
    if not outdated.any():
        return _Answer(table, pa.array(statuses), None)
    return _Answer(table, pa.array(np.where(outdated, np.int8(Status.OUTSIDE_MAX_AGE), statuses)), outdated)


def _statuses(values: pa.ChunkedArray, answer: _Answer) -> pa.Array:
    if not values.null_count:
        return answer.statuses
    statuses = answer.statuses.to_numpy()
    missing = values.is_null().to_numpy() & (statuses == Status.PRESENT)
    return pa.array(np.where(missing, np.int8(Status.NULL_VALUE), statuses))
