"""A request compiled ahead: what to read for its entities, and where in the replies each feature stands.

All views with the same join keys are read by one HMGET an entity, all entities of a request in one round trip, or in
several where values may be of any size (`Plan.at_once`).
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.moments import moments
from serving.status import Status
from stores.hash_reads import HashRead
from stores.json_values import NULL_TIMESTAMP, Stored, decoder
from stores.view import View

Entities = Mapping[str, Sequence[Any]]
"""By join key, or column of request data: a value an entity. Timestamps are whole seconds, bytes are bytes."""

_PRESENT, _NULL = int(Status.PRESENT), int(Status.NULL_VALUE)
_NOT_FOUND, _OLD = int(Status.NOT_FOUND), int(Status.OUTSIDE_MAX_AGE)


class InvalidRequest(ValueError):
    """A request that cannot be answered as it is: what is wrong with it, and what to write instead."""


class NotDeclared(InvalidRequest):
    """A request for a feature, view or service that the registry does not have."""


@dataclass(frozen=True, slots=True)
class PlannedView:
    """One view of a request. `read` is the number of its `HashRead`; those of the vector store are counted on from
    there. `place` is where its timestamp stands in what is read; `ttl` is in seconds, 0 for none; `columns` are the
    request's columns of its join keys. `name` is the request's word for it, `version` Feast's."""

    name: str
    version: int
    view: View
    columns: tuple[str, ...]
    read: int
    place: int
    ttl: float


@dataclass(frozen=True, slots=True)
class PlannedFeature:
    """One feature: the number of its view, where it stands in the replies, its `ValueType`, its name in the answer.

    Of those that are not `asked` for, and read for on-demand views, no value is answered: the name may be another's.
    """

    name: str
    feature: str
    view: int
    place: int
    value_type: int
    asked: bool


@dataclass(frozen=True, slots=True)
class ViewRows:
    """What was found of one view, a row an entity. `statuses` is None if all have the view's features and they may
    be served; `micros` are event times in microseconds since 1970, `shown` the same as Feast writes them."""

    statuses: Sequence[int] | None
    micros: Sequence[int | None]
    shown: Sequence[str]


@dataclass(frozen=True, slots=True)
class Rows:
    """The stored values of a plan's features, a column each, as bytes of Feast's `Value`, and their views' rows.
    A value that is not to be served is None."""

    count: int
    columns: Sequence[Stored]
    views: Sequence[ViewRows]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request's features are read. `keys` has the `ValueType` of each join key column that a request must
    have, `known_keys` of those that it may; `entity_names` has the join keys that entities of other names have, under
    which a request may give them; `request_data` are the columns that on-demand views ask for;
    `requested` are the names of the answer's features, in the order asked."""

    reads: tuple[HashRead, ...]
    packed_fields: tuple[bytes, ...]
    vectors: tuple[PlannedView, ...]
    views: tuple[PlannedView, ...]
    features: tuple[PlannedFeature, ...]
    requested: tuple[str, ...]
    keys: Mapping[str, int]
    known_keys: Mapping[str, int]
    entity_names: Mapping[str, str]
    request_data: frozenset[str]
    decoders: tuple[tuple[int, tuple[int, ...]], ...]
    """The numbers of the features of each `ValueType`: those of one type are decoded together."""
    timestamps: tuple[int, ...]
    """The numbers of the features that are timestamps."""
    at_once: tuple[int, int] | None
    """How many commands are sent first, and at most at once, as their values may be of any size; None: all of them, no
    value is large."""

    def hashes(self, entities: Entities) -> list[list[bytes]]:
        """The names of the entities' hashes, for each read. Raises `InvalidRequest`."""
        try:
            return [read.keys(entities) for read in self.reads]
        except (struct.error, UnicodeEncodeError):  # their words quote the value
            name = next(column for read in self.reads for column in read.unfit(entities))
            raise InvalidRequest(f"entities.{name} has a value that its type cannot hold") from None

    def commands(self, hashes: Sequence[Sequence[bytes]]) -> list[bytes]:
        """The packed commands that read them."""
        packed: list[bytes] = []
        for read, names, fields in zip(self.reads, hashes, self.packed_fields, strict=True):
            packed += read.commands(names, fields)
        return packed

    def shared(self, replies: Sequence[Sequence[bytes | None]], count: int) -> list[Sequence[bytes | None]]:
        """Those of the replies for `count` entities that stand for all of them: of views without entities."""
        found, start = [], 0
        for read in self.reads:
            if read.entityless:
                found.append(replies[start])
            start += 1 if read.entityless else count
        return found

    def rows(
        self,
        replies: Sequence[Sequence[bytes | None]],
        count: int,
        now: float,
        vectors: Sequence[Sequence[Stored]] = (),
    ) -> Rows:
        """What the replies say of `count` entities; `now` (seconds since 1970) is what a `ttl` counts back from.
        `vectors` has for each view of the vector store its stored columns, the timestamp first."""
        tables: list[list[Stored]] = []
        start = 0
        for read in self.reads:
            size = 1 if read.entityless else count
            found = replies[start : start + size]
            if read.entityless and count != 1:
                found = [found[0]] * count
            start += size
            tables.append(list(zip(*found, strict=True)) or [()] * len(read.fields))
        tables += map(list, vectors)
        views = [_view_rows(tables[view.read][view.place], view.ttl, now) for view in self.views]
        columns = [tables[self.views[feature.view].read][feature.place] for feature in self.features]
        for place in self.timestamps:
            columns[place] = _without_nulls(columns[place])
        for place, feature in enumerate(self.features):
            statuses = views[feature.view].statuses
            if statuses is not None:
                columns[place] = _served(columns[place], statuses)
        return Rows(count, columns, views)

    def values(self, rows: Rows) -> list[list[Any]]:
        """The values of the rows' columns as JSON can carry them."""
        answer: list[list[Any]] = [[]] * len(self.features)
        count = rows.count
        for value_type, places in self.decoders:
            flat: list[bytes | None] = []
            for place in places:
                flat += rows.columns[place]
            values = decoder(value_type)(flat)
            start = 0
            for place in places:
                answer[place] = values[start : start + count]
                start += count
        return answer

    def columns(self, rows: Rows) -> Iterator[tuple[PlannedFeature, list[Any], Sequence[int] | None]]:
        """Each feature with its `values` and its `statuses`, also where it is not `asked` for."""
        return zip(self.features, self.values(rows), self.statuses(rows), strict=True)

    def statuses(self, rows: Rows) -> list[Sequence[int] | None]:
        """For each feature the statuses of its values by the numbers of `Status`; None if all are PRESENT."""
        if all(view.statuses is None for view in rows.views) and all(map(all, rows.columns)):
            return [None] * len(self.features)
        return [
            _statuses(column, rows.views[feature.view].statuses)
            for feature, column in zip(self.features, rows.columns, strict=True)
        ]


def _statuses(column: Stored, known: Sequence[int] | None) -> Sequence[int] | None:
    """The statuses of a column's values; `known` are those of their view."""
    if known is None:
        if all(column):
            return None
        return [_PRESENT if value else _NULL for value in column]
    return [
        (_PRESENT if value else _NULL) if status == _PRESENT else status
        for value, status in zip(column, known, strict=True)
    ]


def _view_rows(stamps: Stored, ttl: float, now: float) -> ViewRows:
    known = moments(stamps)
    micros = [number for number, _ in known]
    shown = [text for _, text in known]
    oldest = (now - ttl) * 1e6 if ttl else float("-inf")
    if None not in micros and (not ttl or min(micros, default=oldest) >= oldest):  # type: ignore[type-var, operator]  # no None
        return ViewRows(None, micros, shown)
    statuses = [_NOT_FOUND if at is None else _OLD if at < oldest else _PRESENT for at in micros]
    return ViewRows(statuses, micros, shown)


def _without_nulls(column: Stored) -> Stored:
    """The column with None for what Feast stores as null timestamps."""
    if NULL_TIMESTAMP in column:
        return [None if value == NULL_TIMESTAMP else value for value in column]
    return column


def _served(column: Stored, statuses: Sequence[int]) -> Stored:
    """The column without the values that are not to be served."""
    return [value if status == _PRESENT else None for value, status in zip(column, statuses, strict=True)]
