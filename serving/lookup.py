"""Online features within a service's own process: the plans and decoders of the server, without a hop."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

import orjson
import pyarrow as pa

from serving.features import vector_columns, vector_keys
from serving.on_demand import Derived, derive
from serving.plan import InvalidRequest, Plan, Rows
from serving.refresh import Registry
from serving.request import by_join_key, counted, join_keys
from serving.snapshot import Asked
from serving.status import NAMES, of_values
from stores.errors import StoreRefused
from stores.json_values import Stored
from stores.rows import FeatureReader
from stores.values import decode, has_column


class Hashes(Protocol):
    """A store of hashes that is waited for: `stores.online.RedisOnline`."""

    def ask(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to packed commands, in one round trip."""


@dataclass(frozen=True, slots=True)
class Features:
    """An answer by column, in the order asked, a value an entity: `values` as JSON can carry them, `statuses` by name,
    `event_times` in microseconds since 1970, None where there is none (also for features of on-demand views)."""

    plan: Plan = field(repr=False)
    rows: Rows = field(repr=False)
    derived: Sequence[Derived] = field(repr=False)
    values: dict[str, list[Any]]
    statuses: dict[str, list[str]]
    event_times: dict[str, Sequence[int | None]]

    def to_arrow(self) -> pa.Table:
        """The values, a column a feature, in the types that the features have in Arrow: bytes are bytes, timestamps
        timestamps in UTC; JSON as text where they have none, as for maps and sets.

        Raises `StoreRefused` for a feature that was stored as another type.
        """
        stored: dict[str, tuple[int, Stored]] = {
            feature.name: (feature.value_type, column)
            for feature, column in zip(self.plan.features, self.rows.columns, strict=True)
            if feature.asked
        }
        stored |= {one.name: (one.value_type, one.stored) for one in self.derived}
        return pa.table({name: _column(name, *stored[name], values) for name, values in self.values.items()})


def _column(name: str, value_type: int, stored: Stored, values: Sequence[Any]) -> pa.Array:
    if not has_column(value_type):
        return pa.array([None if value is None else orjson.dumps(value).decode() for value in values], pa.string())
    try:
        return decode(stored, value_type)
    except ValueError as error:
        raise StoreRefused(f"feature {name!r}: {error}; if its type has changed, backfill its view") from error


@dataclass(frozen=True, slots=True)
class OnlineLookup:
    """Answers as `millrace serve` does, for one thread. `registry.start()` keeps it current."""

    registry: Registry
    store: Hashes
    vectors: FeatureReader | None

    def get(
        self,
        entities: Mapping[str, Sequence[Any]],
        features: Sequence[str] = (),
        feature_service: str | None = None,
        full_feature_names: bool = False,
        now: datetime | None = None,
    ) -> Features:
        """The features, or those of the service, of each entity: `entities` has a list a join key. `now` (with its
        time zone) is what a view's `ttl` counts back from, the clock's by default.

        Raises `InvalidRequest`, `StoreUnavailable` and `StoreRefused`, and `ValueError` for a `now` without a zone.
        """
        if now is not None and now.tzinfo is None:
            raise ValueError("now needs a time zone: a time without one is another on each machine")
        compiled = self.registry.current.plan(Asked(tuple(features), feature_service, full_feature_names))
        plan = compiled.plan
        columns = by_join_key(plan, {name: _listed(name, values) for name, values in entities.items()})
        count = counted(columns)
        keys = join_keys(plan, columns)
        commands = plan.commands(plan.hashes(keys))
        replies = self.store.ask(commands) if commands else []
        stored = [vector_columns(self.vectors, view, vector_keys(view, keys, count)) for view in plan.vectors]
        rows = plan.rows(replies, count, time.time() if now is None else now.timestamp(), stored)
        derived = derive(compiled, rows, keys, columns) if compiled.on_demand else ()
        answer = Features(plan, rows, derived, {}, {}, {})
        for feature, values, statuses in plan.columns(rows):
            if feature.asked:
                names = ["PRESENT"] * count if statuses is None else [NAMES[status] for status in statuses]
                answer.values[feature.name], answer.statuses[feature.name] = values, names
                answer.event_times[feature.name] = rows.views[feature.view].micros
        for column in derived:
            values = column.values
            answer.values[column.name], answer.statuses[column.name] = values, of_values(values)
            answer.event_times[column.name] = [None] * count
        return answer if tuple(answer.values) == plan.requested else _in_order(answer)


def _listed(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidRequest(f"entities.{name} must be a list, one value an entity")
    # NumPy's and pandas' have numbers of their own, of which no key is made.
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _in_order(answer: Features) -> Features:
    """The answer by the order asked; an on-demand view may leave a feature out."""
    names = [name for name in answer.plan.requested if name in answer.values]
    return replace(
        answer,
        values={name: answer.values[name] for name in names},
        statuses={name: answer.statuses[name] for name in names},
        event_times={name: answer.event_times[name] for name in names},
    )
