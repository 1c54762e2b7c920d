"""Online features, from a checked request to the bytes of its answer."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa

from serving.answer import features_answer
from serving.aside import Aside
from serving.compile import Compiled
from serving.on_demand import Derived, derive
from serving.plan import InvalidRequest, Plan, PlannedView, Rows
from serving.request import FeaturesRequest, by_join_key, join_keys
from serving.scales import Scales
from stores.entity_keys import BYTES, UNIX_TIMESTAMP
from stores.json_values import Stored
from stores.rows import FeatureReader
from stores.values import encode, encode_timestamps
from stores.view import Feature


class Reads(Protocol):
    """A store of hashes: a Redis (`stores.online_reads`), its replicas, or a cluster."""

    async def read(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to packed commands. Raises `StoreUnavailable` and `StoreRefused`."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found for a request: its join keys in their types, the stored rows, the features derived of them."""

    plan: Plan
    keys: Mapping[str, Sequence[Any]]
    rows: Rows
    derived: Sequence[Derived]


Write = Callable[[FeaturesRequest, Found], bytes]
"""Makes an answer's bytes."""


@dataclass(frozen=True, slots=True)
class OnlineFeatures:
    """Answers requests for online features. `vectors` reads the views with a vector, if there is a store of them,
    `aside` from the others. `cells` weighs requests by the values that they read."""

    reads: Reads
    vectors: FeatureReader | None
    aside: Aside
    cells: Scales

    def look(self, request: FeaturesRequest, compiled: Compiled) -> None:
        """Raises `Overloaded` if there is no room for what the request needs, before any work is put into it."""
        if compiled.plan.vectors:
            self.aside.look()
        if weight := self.cells.weight(request.count * compiled.width):
            self.cells.look(weight)

    async def answer(self, request: FeaturesRequest, compiled: Compiled, write: Write) -> bytes:
        """The body of the answer. Raises `InvalidRequest`, `Overloaded`, `StoreUnavailable` and `StoreRefused`."""
        columns = by_join_key(compiled.plan, request.entities)
        if columns is not request.entities:
            request = replace(request, entities=columns)
        weight = self.cells.weight(request.count * compiled.width)
        if weight:
            await self.cells.enter(weight)
        try:
            return write(request, await self.find(request, compiled))
        finally:
            if weight:
                self.cells.leave(weight)

    async def find(self, request: FeaturesRequest, compiled: Compiled) -> Found:
        """What the answer is made of, not weighed, for a request with its join keys. Raises as `answer`."""
        plan = compiled.plan
        keys = join_keys(plan, request.entities)
        rows = await self._rows(plan, keys, request.count)
        derived = []
        if compiled.on_demand:
            derived = await asyncio.to_thread(derive, compiled, rows, keys, request.entities)
        return Found(plan, keys, rows, derived)

    async def _rows(self, plan: Plan, keys: Mapping[str, Sequence[Any]], count: int) -> Rows:
        commands = plan.commands(keys)
        replies = await self.reads.read(commands) if commands else []
        vectors = []
        if plan.vectors:
            vectors = [await self.aside.run(vector_columns, self.vectors, view, keys) for view in plan.vectors]
        return plan.rows(replies, count, time.time(), vectors)


def json_body(request: FeaturesRequest, found: Found) -> bytes:
    """An answer in Feast's JSON form."""
    echoed = _echoed(found.plan, found.keys, request.entities)
    return features_answer(found.plan, found.rows, echoed, found.derived, request.versions)


def vector_columns(
    reader: FeatureReader | None, planned: PlannedView, keys: Mapping[str, Sequence[Any]]
) -> list[Stored]:
    """A view of the vector store as stored columns: its timestamps, then its features."""
    assert reader is not None  # a plan has such views only where there is a store of them
    view = planned.view
    columns = {
        key.name: _key_column(column, keys[column], key)
        for key, column in zip(view.join_keys, planned.columns, strict=True)
    }
    (table,) = reader.read([view], pa.table(columns))
    present = table["_present"].to_pylist()
    moments = encode_timestamps(table["event_timestamp"]).to_pylist()
    stamps = [stamp if there else None for stamp, there in zip(moments, present, strict=True)]
    features = [encode(table[feature.name], feature.value_type).to_pylist() for feature in view.features]
    return [stamps, *features]


def _key_column(name: str, values: Sequence[Any], key: Feature) -> pa.Array:
    """Timestamps are whole seconds in a request and microseconds in a column."""
    if key.value_type == UNIX_TIMESTAMP:
        values = [value * 1_000_000 for value in values]
    try:
        return pa.array(values, key.arrow_type)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):  # their words quote the value
        raise InvalidRequest(f"entities.{name} has a value that its type cannot hold") from None


def _echoed(plan: Plan, keys: Mapping[str, Sequence[Any]], entities: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """The join keys as the answer repeats them: bytes as the request gave them."""
    return {name: entities[name] if plan.known_keys[name] == BYTES else values for name, values in keys.items()}
