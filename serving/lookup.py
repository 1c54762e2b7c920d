"""Online features within a service's own process: the plans and decoders of the server, without a hop."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import pyarrow as pa

from serving.features import vector_columns
from serving.on_demand import derive
from serving.plan import InvalidRequest, Plan, Rows
from serving.refresh import Registry
from serving.request import join_keys
from serving.snapshot import Asked
from serving.status import NAMES
from stores.rows import FeatureReader
from stores.values import decode, has_column


class Hashes(Protocol):
    """A store of hashes that is waited for: `stores.online.RedisOnline`."""

    def ask(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to packed commands, in one round trip."""


@dataclass(frozen=True, slots=True)
class Features:
    """An answer by column, a value an entity: `values` as JSON can carry them, `statuses` by name, `event_times` in
    microseconds since 1970, None where there is none (also for features of on-demand views)."""

    plan: Plan = field(repr=False)
    rows: Rows = field(repr=False)
    values: dict[str, list[Any]]
    statuses: dict[str, list[str]]
    event_times: dict[str, Sequence[int | None]]

    def to_arrow(self) -> pa.Table:
        """The values, a column a feature, in the types that the features have in Arrow: bytes are bytes, timestamps
        timestamps in UTC. Those without one there, and those of on-demand views, have the types of `values`."""
        stored = {
            feature.name: (column, feature.value_type)
            for feature, column in zip(self.plan.features, self.rows.columns, strict=True)
            if feature.asked and has_column(feature.value_type)
        }
        return pa.table(
            {name: decode(*stored[name]) if name in stored else pa.array(self.values[name]) for name in self.values}
        )


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

        Raises `InvalidRequest`, `StoreUnavailable` and `StoreRefused`.
        """
        compiled = self.registry.current.plan(Asked(tuple(features), feature_service, full_feature_names))
        plan = compiled.plan
        for name, values in entities.items():
            if isinstance(values, str | bytes):
                raise InvalidRequest(f"entities.{name} must be a list, one value an entity")
        columns = {name: list(values) for name, values in entities.items()}
        sizes = {len(values) for values in columns.values()}
        if len(sizes) != 1:
            raise InvalidRequest("the lists of entities are of one length")
        (count,) = sizes
        keys = join_keys(plan, columns)
        commands = plan.commands(keys)
        replies = self.store.ask(commands) if commands else []
        stored = [vector_columns(self.vectors, view, keys) for view in plan.vectors]
        rows = plan.rows(replies, count, time.time() if now is None else now.timestamp(), stored)
        answer = Features(plan, rows, {}, {}, {})
        for feature, values, statuses in zip(plan.features, plan.values(rows), plan.statuses(rows), strict=True):
            if feature.asked:
                names = ["PRESENT"] * count if statuses is None else [NAMES[status] for status in statuses]
                answer.values[feature.name], answer.statuses[feature.name] = values, names
                answer.event_times[feature.name] = rows.views[feature.view].micros
        if compiled.on_demand:
            for column in derive(compiled, rows, keys, columns):
                answer.values[column.name] = list(column.values)
                answer.statuses[column.name] = ["NULL_VALUE" if v is None else "PRESENT" for v in column.values]
                answer.event_times[column.name] = [None] * count
        return answer
