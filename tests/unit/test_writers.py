"""Several stores as one: each view's rows stand in the store that keeps them, or in none."""

from dataclasses import replace

import pyarrow as pa
import pytest

from stores.errors import StoreRefused
from stores.memory import MemoryOnline
from stores.view import Vector
from stores.writers import ByView
from tests.feature_changes import Change, rows, view

PLAIN = view("plain", "state")
EMBEDDED = replace(view("embedded", "state"), vector=Vector("x", 1, "cosine", ("name",)))


def test_a_view_is_scanned_where_it_is_written() -> None:
    online, vectors = MemoryOnline(), MemoryOnline()
    both = ByView(online, vectors)
    both.write([rows(PLAIN, Change(1, lsn=10)), rows(EMBEDDED, Change(2, lsn=10))])
    for served, store, entity in ((PLAIN, online, 1), (EMBEDDED, vectors, 2)):
        scanned = pa.concat_tables(both.scan(served))
        assert scanned["id"].to_pylist() == [entity]
        assert scanned.equals(pa.concat_tables(store.scan(served)))


def test_a_view_with_a_vector_is_not_looked_for_where_it_cannot_be() -> None:
    with pytest.raises(StoreRefused, match="view embedded has a vector, and there is no vector store"):
        ByView(MemoryOnline(), None).scan(EMBEDDED)
