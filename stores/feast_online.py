"""Feast's online store plug-in: views with a vector in pgvector, all others in Redis in Feast's own layout.

In `feature_store.yaml`:

    online_store:
      type: stores.feast_online.MillraceOnlineStore
      connection_string: localhost:6379
      vectors: postgresql://user:password@localhost:5432/vectors
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import pandas as pd
import pyarrow as pa
from feast import Entity, FeatureView, RepoConfig
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.redis import RedisClient, RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from pydantic import StrictStr, field_validator

from stores.errors import StoreRefused
from stores.feast_protos import (
    carries,
    column,
    declared_keys,
    entity_keys_of,
    entity_table,
    messages,
    stored_view,
    vector_field,
)
from stores.online import RedisAddress, RedisOnline
from stores.rows import TIMESTAMP
from stores.vector_filters import Filters
from stores.vectors import PgVectors
from stores.view import View

MODEL_TAG = "model"
"""On a vector field: the model of its vectors. It is asked for where Feast makes the table or writes vectors;
what millrace embeds says it by itself."""

NEVER = datetime(1970, 1, 1, tzinfo=UTC)
"""The event time that Feast's Redis store tells of an entity that it does not have."""

Values: TypeAlias = dict[str, Value]
Row: TypeAlias = tuple[EntityKey, Values, datetime, datetime | None]
"""What Feast writes: entity key, features, event time, time of creation."""

KeyValues: TypeAlias = dict[str, list[Value]]
"""What is asked for: the values of each join key, by its name or the alias that a view gives it."""


class MillraceOnlineStoreConfig(RedisOnlineStoreConfig):
    """Redis as in Feast's own store, and where the vectors are."""

    type: Literal["stores.feast_online.MillraceOnlineStore"] = "stores.feast_online.MillraceOnlineStore"

    vectors: StrictStr | None = None
    """PostgreSQL with pgvector, as `postgresql://user:password@host:port/database`."""

    retention_hours: float = 168
    """How long versions are kept after a delete: the retention of the topics."""

    # One field at a time: pydantic quotes what a validator was given, and the whole section has the passwords.

    @field_validator("redis_type", "client")
    @classmethod
    def _a_single_redis(cls, value: RedisType | RedisClient) -> RedisType | RedisClient:
        if value not in (RedisType.redis, RedisClient.redis):
            raise ValueError("online_store: millrace writes to a single Redis; leave out redis_type and client")
        return value

    @field_validator("key_ttl_seconds")
    @classmethod
    def _no_expiry(cls, value: int | None) -> int | None:
        if value is not None:
            raise ValueError(
                "online_store: key_ttl_seconds would forget features that no change brings back; use the ttl of views"
            )
        return value


class MillraceOnlineStore(RedisOnlineStore):
    """Reads Redis by Feast's own code; writes by compare-and-set, so that what Feast materializes or pushes
    never replaces a newer value from the stream. Views with a vector are read, written and searched in
    pgvector. Raises what `stores.online` and `stores.vectors` raise."""

    _redis_store: RedisOnline | None = None
    _vector_store: PgVectors | None = None

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        if not carries(table):  # no stream can have written it
            super().online_write_batch(config, table, data, progress)
            return
        if data:
            view, rows = _plain_rows(config, table, data)
            if view.vector is not None:
                model = pa.array([_model(table)] * rows.num_rows, pa.string())
                self._vectors(config, table).update_plain(view, rows.append_column("_model", model))
            else:
                self._redis(config).update_plain(view, rows)
        if progress:
            progress(len(data))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Row],
        progress: Callable[[int], Any] | None,
    ) -> None:
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, Values | None]]:
        if vector_field(table) is None:
            return super().online_read(config, table, entity_keys, requested_features)  # type: ignore[no-any-return]
        if not entity_keys:
            return []
        join_keys, keys = entity_table(entity_keys)
        view = stored_view(config, table, join_keys)
        (found,) = self._vectors(config, table).read([view], keys)
        times = [time or NEVER for time in found["event_timestamp"].to_pylist()]
        return list(zip(times, _rows(view, found, requested_features), strict=True))

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, Values | None]]:
        if vector_field(table) is None:
            return await super().online_read_async(config, table, entity_keys, requested_features)  # type: ignore[no-any-return]
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

    def _read_features_per_fv(
        self, config: RepoConfig, grouped_refs: list[Any], join_key_values: KeyValues, *rest: Any
    ) -> None:
        # Feast's Redis store reads all views in one pipeline; its base class view by view with `online_read`.
        for refs, values in _by_alias(grouped_refs, join_key_values):
            plain, vector = _apart(refs)
            super()._read_features_per_fv(config, plain, values, *rest)
            OnlineStore._read_features_per_fv(self, config, vector, values, *rest)

    async def _read_features_per_fv_async(
        self, config: RepoConfig, grouped_refs: list[Any], join_key_values: KeyValues, *rest: Any
    ) -> None:
        for refs, values in _by_alias(grouped_refs, join_key_values):
            plain, vector = _apart(refs)
            await super()._read_features_per_fv_async(config, plain, values, *rest)
            await OnlineStore._read_features_per_fv_async(self, config, vector, values, *rest)

    def retrieve_online_documents_v2(
        self,
        config: RepoConfig,
        table: FeatureView,
        requested_features: list[str],
        embedding: list[float] | None,
        top_k: int,
        distance_metric: str | None = None,
        query_string: str | None = None,
        filters: Filters | None = None,
        include_feature_view_version_metadata: bool = False,
    ) -> list[tuple[datetime | None, EntityKey | None, Values | None]]:
        """The nearest entities under the metric that the field declares, ordered by entity key, each with its
        `distance`.

        Not by distance, because `FeatureStore.retrieve_online_documents_v2` sorts the entity keys and
        expects the rows to come in that order: any other pairs rows with the wrong entities.
        """
        if embedding is None or query_string is not None:
            raise ValueError(
                f"view {table.name}: there is no keyword search here; embed the text and give the vector as `query`"
            )
        view, found = self._search(config, table, embedding, top_k, filters, requested_features)
        distances = [Value(double_val=distance) for distance in found["distance"].to_pylist()]
        values = [
            {**row, "distance": distance}
            for row, distance in zip(_rows(view, found, requested_features), distances, strict=True)
        ]
        times = found["event_timestamp"].to_pylist()
        keys = entity_keys_of(view, found)
        order = sorted(range(len(keys)), key=lambda place: _sort_key(keys[place]))
        return [(times[place], keys[place], values[place]) for place in order]

    def retrieve_online_documents(
        self,
        config: RepoConfig,
        table: FeatureView,
        requested_features: list[str],
        embedding: list[float],
        top_k: int,
        distance_metric: str | None = None,
    ) -> list[tuple[datetime | None, EntityKey | None, Value | None, Value | None, Value | None]]:
        """The nearest entities under the metric that the field declares, nearest first, each with its first
        requested feature, its vector and its distance."""
        vector = vector_field(table)
        wanted = [requested_features[0], vector.name] if vector and requested_features else requested_features
        view, found = self._search(config, table, embedding, top_k, None, wanted)
        first, vectors = ([row[name] for row in _rows(view, found, [name])] for name in wanted)
        distances = [Value(double_val=distance) for distance in found["distance"].to_pylist()]
        times = found["event_timestamp"].to_pylist()
        return list(zip(times, entity_keys_of(view, found), first, vectors, distances, strict=True))

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Drop what the stores hold of deleted views, and make the tables of vector views whose field names
        its `model`; the table of one that does not is made by whoever embeds its first text."""
        for table in tables_to_delete:
            self._drop(config, table)
        for table in tables_to_keep:
            model = _model(table)
            if model is not None:
                view = stored_view(config, table, declared_keys(table))
                self._vectors(config, table).create(view, model)

    def teardown(
        self,
        config: RepoConfig,
        tables: Sequence[FeatureView],
        entities: Sequence[Entity],
    ) -> None:
        """Drop what the stores hold of the views."""
        for table in tables:
            self._drop(config, table)

    async def close(self) -> None:
        await super().close()
        if self._redis_store is not None:
            self._redis_store.close()
        if self._vector_store is not None:
            self._vector_store.close()

    def _drop(self, config: RepoConfig, table: FeatureView) -> None:
        if not carries(table):
            self.delete_table(config, table)
            return
        view = stored_view(config, table, declared_keys(table))
        if view.vector is not None:
            self._vectors(config, table).drop(view)
        elif config.online_store.full_scan_for_deletion:
            self._redis(config).drop(view)

    def _search(
        self,
        config: RepoConfig,
        table: FeatureView,
        embedding: Sequence[float],
        top_k: int,
        filters: Filters | None,
        features: Sequence[str],
    ) -> tuple[View, pa.Table]:
        if vector_field(table) is None:
            raise ValueError(f"view {table.name} has no vector field: declare one with vector_index=True")
        view = stored_view(config, table, declared_keys(table))
        return view, self._vectors(config, table).search(view, embedding, top_k, filters, features)

    def _redis(self, config: RepoConfig) -> RedisOnline:
        if self._redis_store is None:
            address = RedisAddress.parse(config.online_store.connection_string)
            self._redis_store = RedisOnline(address, config.online_store.retention_hours * 3_600)
        return self._redis_store

    def _vectors(self, config: RepoConfig, table: FeatureView) -> PgVectors:
        if self._vector_store is None:
            if config.online_store.vectors is None:
                raise StoreRefused(
                    f"view {table.name} has a vector field, and feature_store.yaml names no vector store: "
                    "add online_store.vectors: a PostgreSQL URL"
                )
            url, hours = config.online_store.vectors, config.online_store.retention_hours
            self._vector_store = PgVectors(url, hours * 3_600)
        return self._vector_store


def _plain_rows(config: RepoConfig, table: FeatureView, data: Sequence[Row]) -> tuple[View, pa.Table]:
    """Rows as Feast hands them over, as a table: join keys, features, `event_timestamp`.

    Of rows with one event time the store keeps the last, so they are in the order of their creation.
    """
    data = sorted(data, key=_creation)
    join_keys, rows = entity_table([key for key, _, _, _ in data])
    view = stored_view(config, table, join_keys)
    for feature in view.features:
        values = [values.get(feature.name) for _, values, _, _ in data]
        rows = rows.append_column(feature.name, column(values, feature))
    times = [_aware(time) for _, _, time, _ in data]
    return view, rows.append_column("event_timestamp", pa.array(times, TIMESTAMP))


def _creation(row: Row) -> datetime:
    created = row[3]
    return NEVER if pd.isna(created) else _aware(created)


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _rows(view: View, found: pa.Table, names: Sequence[str] | None) -> list[Values]:
    """Each row as messages by feature name; a null is the empty message."""
    features = [feature for feature in view.features if names is None or feature.name in names]
    columns = [messages(found[feature.name], feature) for feature in features]
    return [
        dict(zip((feature.name for feature in features), values, strict=True))
        for values in (zip(*columns, strict=True) if columns else [()] * found.num_rows)
    ]


def _apart(grouped_refs: list[Any]) -> tuple[list[Any], list[Any]]:
    """The references to plain views and to views with a vector."""
    vector = [ref for ref in grouped_refs if vector_field(ref[0]) is not None]
    return [ref for ref in grouped_refs if vector_field(ref[0]) is None], vector


def _by_alias(grouped_refs: list[Any], values: KeyValues) -> list[tuple[list[Any], KeyValues]]:
    """The references to views of the same join key map, each with the values of the keys that they go by.

    Where a row has both a join key and its alias, for another view, Feast would take whichever comes last.
    """
    groups: dict[frozenset[tuple[str, str]], list[Any]] = {}
    for ref in grouped_refs:
        groups.setdefault(frozenset(ref[0].projection.join_key_map.items()), []).append(ref)
    answer = []
    for renames, refs in groups.items():
        hidden = {key for key, _ in renames} - {alias for _, alias in renames}
        answer.append((refs, {key: of_key for key, of_key in values.items() if key not in hidden}))
    return answer


def _sort_key(key: EntityKey) -> tuple[Any, ...]:
    """As Feast's `utils._get_unique_entities_from_values` sorts."""
    return tuple(getattr(value, value.WhichOneof("val")) for value in key.entity_values)


def _model(table: FeatureView) -> str | None:
    field = vector_field(table)
    return None if field is None else field.tags.get(MODEL_TAG)
