"""Several feature stores as one: views with a vector go to the vector store, the others online."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from stores.errors import StoreRefused
from stores.rows import FeatureRows, FeatureWriter, WriteResult
from stores.view import View


class ByView:
    """A `FeatureWriter` that sends each view's rows to the store that keeps them."""

    def __init__(self, online: FeatureWriter, vectors: FeatureWriter | None) -> None:
        self._online = online
        self._vectors = vectors

    def write(self, batches: Sequence[FeatureRows]) -> WriteResult:
        plain = [rows for rows in batches if rows.view.vector is None]
        embedded = [rows for rows in batches if rows.view.vector is not None]
        result = WriteResult(0, 0)
        if plain:
            result = self._online.write(plain)
        if embedded:
            second = self._store(embedded[0].view).write(embedded)
            result = WriteResult(
                result.applied + second.applied, result.refused + second.refused, result.undecided + second.undecided
            )
        return result

    def decide(self, rows: FeatureRows) -> WriteResult:
        return self._store(rows.view).decide(rows)

    def inspect(self, view: View, keys: pa.Table) -> pa.Table:
        return self._store(view).inspect(view, keys)

    def scan(self, view: View) -> Iterator[pa.Table]:
        return self._store(view).scan(view)

    def _store(self, view: View) -> FeatureWriter:
        if view.vector is None:
            return self._online
        if self._vectors is None:
            raise StoreRefused(
                f"view {view.name} has a vector, and there is no vector store to keep it in: add "
                "online_store.vectors to feature_store.yaml"
            )
        return self._vectors

    def ping(self) -> None:
        self._online.ping()
        if self._vectors is not None:
            self._vectors.ping()
