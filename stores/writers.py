"""Several feature stores as one: views with a vector go to the vector store, the others online."""

from collections.abc import Sequence

from stores.rows import FeatureRows, FeatureWriter, WriteResult


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
        if embedded and self._vectors is not None:
            second = self._vectors.write(embedded)
            result = WriteResult(
                result.applied + second.applied, result.refused + second.refused, result.undecided + second.undecided
            )
        return result

    def decide(self, rows: FeatureRows) -> WriteResult:
        store = self._online if rows.view.vector is None or self._vectors is None else self._vectors
        return store.decide(rows)

    def ping(self) -> None:
        self._online.ping()
        if self._vectors is not None:
            self._vectors.ping()
