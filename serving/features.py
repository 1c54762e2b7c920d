"""Online features, from a checked request to the bytes of its answer."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

import pyarrow as pa

from serving.answer import features_answer
from serving.aside import Aside
from serving.compile import Compiled
from serving.on_demand import Derived, derive
from serving.plan import InvalidRequest, Plan, PlannedView, Rows
from serving.request import FeaturesRequest, TooLarge, by_join_key, join_keys
from serving.scales import Scales
from stores.entity_keys import BYTES, UNIX_TIMESTAMP
from stores.errors import TooMuch
from stores.json_values import Stored
from stores.rows import FeatureReader
from stores.values import encode, encode_timestamps
from stores.view import Feature


class Reads(Protocol):
    """The connection to a store of hashes: a Redis (`stores.online_reads`), its replicas, or a cluster."""

    @property
    def ready(self) -> bool:
        """Whether it answers."""

    async def start(self) -> None:
        """Connect, in the running event loop."""

    async def close(self) -> None:
        """Disconnect."""

    async def read(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to packed commands. Raises `StoreUnavailable` and `StoreRefused`."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found for a request: its join keys in their types, the stored rows, the features derived of them."""

    plan: Plan
    keys: Mapping[str, Sequence[Any]]
    rows: Rows
    derived: Sequence[Derived]


VALUE_BYTES = 16
"""What is read for a request takes no more bytes than so many for each value that one may ask for (`serve.cells`):
decoded, a text, a list or a vector that takes more of them is as much work as several values."""

Write = Callable[[FeaturesRequest, Found], bytes]
"""Makes an answer's bytes."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that can be looked up: its join keys in their types, the names of its hashes for each read, and the
    keys of each view of the vector store."""

    request: FeaturesRequest
    compiled: Compiled
    keys: Mapping[str, Sequence[Any]]
    hashes: Sequence[Sequence[bytes]]
    vectors: Sequence[pa.Table]


@dataclass(frozen=True, slots=True)
class OnlineFeatures:
    """Answers requests for online features. `vectors` reads the views with a vector, if there is a store of them,
    `aside` from the others; the functions of on-demand views run by `functions`. `cells` weighs requests by the values
    that they read, which take at most `stored_bytes` for one request."""

    reads: Reads
    vectors: FeatureReader | None
    aside: Aside
    functions: Aside
    cells: Scales
    stored_bytes: int

    def look(self, request: FeaturesRequest, compiled: Compiled) -> None:
        """Raises `Overloaded` if there is no room for what the request needs, before any work is put into it."""
        if compiled.plan.vectors:
            self.aside.look()
        if compiled.on_demand:
            self.functions.look()
        if weight := self.cells.weight(request.count * compiled.width):
            self.cells.look(weight)

    def prepared(self, request: FeaturesRequest, compiled: Compiled) -> Prepared:
        """The request checked to its last join key, before it is charged. Raises `InvalidRequest`."""
        plan = compiled.plan
        columns = by_join_key(plan, request.entities)
        if columns is not request.entities:
            request = replace(request, entities=columns)
        keys = join_keys(plan, columns)
        vectors = [vector_keys(view, keys, request.count) for view in plan.vectors]
        return Prepared(request, compiled, keys, plan.hashes(keys), vectors)

    async def answer(self, prepared: Prepared, write: Write) -> bytes:
        """The body of the answer. Raises `InvalidRequest`, `Overloaded`, `StoreUnavailable` and `StoreRefused`.

        Of a request that there was room for just now (`look`), only a large one that waits for its turn can be
        `Overloaded`.
        """
        weight = self.cells.weight(prepared.request.count * prepared.compiled.width)
        if weight:
            await self.cells.enter(weight)
        try:
            return write(prepared.request, await self.find(prepared))
        finally:
            if weight:
                self.cells.leave(weight)

    async def find(self, prepared: Prepared) -> Found:
        """What the answer is made of, not weighed. Raises as `answer`."""
        compiled, keys, entities = prepared.compiled, prepared.keys, prepared.request.entities
        rows = await self._rows(prepared)
        derived = []
        if compiled.on_demand:
            derived = await self.functions.run(derive, compiled, rows, keys, entities)
        return Found(compiled.plan, keys, rows, derived)

    async def _rows(self, prepared: Prepared) -> Rows:
        plan = prepared.compiled.plan
        vectors: Sequence[Sequence[Stored]] = ()
        if plan.vectors:  # first: the room that was looked for is taken before anything is waited for
            try:
                vectors = await self.aside.run(_vector_columns, self.vectors, plan.vectors, prepared.vectors)
            except TooMuch as error:
                raise TooLarge(f"{error}: ask for fewer entities at once") from error
            self._weigh(sum(map(_bytes, vectors)))
        replies = await self._replies(plan, plan.commands(prepared.hashes), prepared.request.count)
        return plan.rows(replies, prepared.request.count, time.time(), vectors)

    async def _replies(self, plan: Plan, commands: Sequence[bytes], count: int) -> list[Any]:
        """The replies to a plan's commands for so many entities, before anything is decoded. Raises `TooLarge`."""
        if plan.at_once is None:
            return await self.reads.read(commands) if commands else []
        replies: list[Any] = []
        size, (trip, most) = 0, plan.at_once
        while len(replies) < len(commands):
            found = await self.reads.read(commands[len(replies) : len(replies) + trip])
            size += _bytes(found)
            self._weigh(size)
            replies += found
            fit = (self.stored_bytes - size) * len(replies) // max(1, size)  # if they are as large as those before
            trip = max(1, min(fit, most))
        self._weigh(size + (count - 1) * _bytes(plan.shared(replies, count)))
        return replies

    def _weigh(self, size: int) -> None:
        if size > self.stored_bytes:
            raise TooLarge(
                f"the values of these entities take more than {self.stored_bytes} bytes as they are stored, the most "
                f"that is read for one request ({VALUE_BYTES} for each of serve.cells): ask for fewer entities, or for "
                "fewer texts and lists, at once"
            )


def json_body(request: FeaturesRequest, found: Found) -> bytes:
    """An answer in Feast's JSON form."""
    echoed = _echoed(found.plan, found.keys, request.entities)
    return features_answer(found.plan, found.rows, echoed, found.derived, request.versions)


def _bytes(stored: Collection[Stored]) -> int:
    """How many bytes some stored values take. Most have no null, and are joined: each asked for its length, they take
    twice the time."""
    try:
        return sum(map(len, map(b"".join, stored)))  # type: ignore[arg-type]  # a null makes it raise
    except TypeError:
        return sum(map(len, filter(None, chain.from_iterable(stored))))


def vector_keys(planned: PlannedView, keys: Mapping[str, Sequence[Any]], count: int) -> pa.Table:
    """The keys of so many entities of a view of the vector store, as it is asked by. Raises `InvalidRequest`."""
    columns = {
        key.name: _key_column(column, keys[column], key)
        for key, column in zip(planned.view.join_keys, planned.columns, strict=True)
    }
    # With a column that is none of the view's: a view without entities has none, and a row for each that is asked for.
    return pa.table({**columns, "": pa.nulls(count)}).select(list(columns))


def vector_columns(reader: FeatureReader | None, planned: PlannedView, keys: pa.Table) -> list[Stored]:
    """A view of the vector store as stored columns: its timestamps, then its features."""
    assert reader is not None  # a plan has such views only where there is a store of them
    view = planned.view
    (table,) = reader.read([view], keys)
    present = table["_present"].to_pylist()
    moments = encode_timestamps(table["event_timestamp"]).to_pylist()
    stamps = [stamp if there else None for stamp, there in zip(moments, present, strict=True)]
    features = [encode(table[feature.name], feature.value_type).to_pylist() for feature in view.features]
    return [stamps, *features]


def _vector_columns(
    reader: FeatureReader | None, views: Sequence[PlannedView], keys: Sequence[pa.Table]
) -> list[list[Stored]]:
    return [vector_columns(reader, view, its_keys) for view, its_keys in zip(views, keys, strict=True)]


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
