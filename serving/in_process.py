"""Online features within a service's own process: the plans and decoders of the server, without a hop."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serving.features import vector_columns
from serving.lookup import Status
from serving.on_demand import derive
from serving.plan import InvalidRequest
from serving.refresh import Registry
from serving.request import join_keys
from serving.snapshot import Asked
from stores.rows import FeatureReader

_NAMES = {int(status): status.name for status in Status}


class Hashes(Protocol):
    """A store of hashes that is waited for: `stores.online.RedisOnline`."""

    def ask(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to packed commands, in one round trip."""


@dataclass(frozen=True, slots=True)
class Features:
    """An answer by column: `values` as JSON can carry them, `statuses` by name, `event_times` in microseconds since
    1970, None where there is none (also for features of on-demand views)."""

    values: dict[str, list[Any]]
    statuses: dict[str, list[str]]
    event_times: dict[str, Sequence[int | None]]


@dataclass(frozen=True, slots=True)
class InProcess:
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
    ) -> Features:
        """The features, or those of the service, of each entity: `entities` has a list a join key.

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
        rows = plan.rows(replies, count, time.time(), stored)
        answer = Features({}, {}, {})
        for feature, values, statuses in zip(plan.features, plan.values(rows), plan.statuses(rows), strict=True):
            if feature.asked:
                names = ["PRESENT"] * count if statuses is None else [_NAMES[status] for status in statuses]
                answer.values[feature.name], answer.statuses[feature.name] = values, names
                answer.event_times[feature.name] = rows.views[feature.view].micros
        if compiled.on_demand:
            for column in derive(compiled, rows, keys, columns):
                answer.values[column.name] = list(column.values)
                answer.statuses[column.name] = ["NULL_VALUE" if v is None else "PRESENT" for v in column.values]
                answer.event_times[column.name] = [None] * count
        return answer
